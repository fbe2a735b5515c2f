"""The same numbers for a terminal of 80 columns, in plain ASCII apart from the table's lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from .report_rows import shown_blocks, task_name
from .wording import (
    Number,
    bracket,
    comparison_headline,
    count,
    evaluation_headline,
    interval,
    margin_words,
    percent,
    ratio,
    seconds,
    signed_points,
)

Block = Mapping[str, Any]
STYLES = {"non-inferior": "green", "inferior": "red", "undecided": "yellow"}


def eval_table(summary: Block) -> Table:
    """One evaluation (``summary.json``): a row per task and, where there are several, one for all."""
    table = _table(_title("evaluation", summary["model"]["name"], summary["overall"]))
    table.add_column("task", no_wrap=True, max_width=15, overflow="crop")
    for name in ("accuracy", "95% interval", "tokens", "95% interval", "truncated"):
        table.add_column(name, justify="right", no_wrap=True)
    for block in shown_blocks(summary):
        accuracy, tokens = block["accuracy"]["avg_at_k"], block["tokens"]
        table.add_row(
            *map(
                _text,
                (
                    task_name(block["task"]),
                    percent(accuracy["value"]),
                    interval(accuracy["ci95"], _short_percent),
                    count(tokens["mean"]),
                    interval(tokens["mean_ci95"], count),
                    percent(tokens["trunc_rate"]),
                ),
            ),
        )
    cost = summary["overall"]["cost"]
    headline = evaluation_headline(summary["overall"], str(summary["model"]["name"]))
    caption = [f"{headline.claim}; {percent(summary['overall']['tokens']['loop_rate'])} of the responses loop."]
    if cost:
        batch = max(cost["gpu_s"], key=int)
        latency, busy = seconds(cost["latency_b1_mean"])[0], seconds(1000 * cost["gpu_s"][batch])[0]
        caption.append(
            f"Computed for {cost['profile']}: {latency} per answer alone, "
            f"{busy} of GPU time per 1,000 answers at B={batch}."
        )
    table.caption = _text("\n".join(caption))
    return table


def comparison_table(comparison: Block, labels: tuple[str, str] = ("base", "trained")) -> Table:
    """Two evaluations (``compare_runs``): measures down, models across, the verdict in words below."""
    overall = comparison["overall"]
    table = _table(_title("comparison", f"{labels[0]} and {labels[1]}", overall))
    table.add_column("", no_wrap=True, max_width=21, overflow="crop")
    table.add_column(_text(labels[0]), justify="right", no_wrap=True, max_width=10, overflow="crop")
    table.add_column(_text(labels[1]), justify="right", no_wrap=True, max_width=10, overflow="crop")
    table.add_column("change (95% interval)", no_wrap=True)
    several = len(comparison["tasks"]) > 1
    blocks = shown_blocks(comparison)

    def row(title: str, before: str, after: str, change: str = "", style: str = "") -> None:
        table.add_row(*(_text(text, style) for text in (title, before, after, change)))

    def rows(title: str, values: Callable[[Block], tuple[str, str, str]]) -> None:
        for index, block in enumerate(blocks):
            name = title if index == 0 else f"  {task_name(block['task'])}"
            row(name, *values(block), style="bold" if index == 0 else "")
        if several:
            table.add_section()

    rows("accuracy", _accuracy)
    rows("tokens per answer", _tokens)
    tokens, cost = overall["tokens"], overall["cost"]
    row("truncated", percent(tokens["base_trunc_rate"]), percent(tokens["new_trunc_rate"]))
    row("tokens / right answer", count(tokens["base_tpc"]), count(tokens["new_tpc"]), _times(tokens, "tpc"))
    if cost is not None:
        batch = max(cost["gpu_s_ratio"], key=int)
        for title, values, change in (
            (
                "latency alone (B=1)",
                [cost[side]["latency_b1_mean"] for side in ("base", "new")],
                cost["latency_b1_ratio"],
            ),
            (
                f"GPU per 1,000, B={batch}",
                [1000 * cost[side]["gpu_s"][batch] for side in ("base", "new")],
                cost["gpu_s_ratio"][batch],
            ),
        ):
            before, after = seconds(*values)
            row(title, before, after, f"x{ratio(change)}")
    accuracy = overall["accuracy"]
    caption = _text(f"{comparison_headline(overall, labels).claim}.\n")
    caption.append(accuracy["verdict"], style=STYLES[accuracy["verdict"]])
    caption.append(f" at a margin of {margin_words(accuracy['margin'])}")
    if cost is not None:
        caption.append(_text(f"; times are computed for {cost['profile']}"))
    table.caption = caption
    return table


def _accuracy(block: Block) -> tuple[str, str, str]:
    accuracy = block["accuracy"]
    change = f"{signed_points(accuracy['delta'])} points{bracket(accuracy['ci95'], signed_points)}"
    return percent(accuracy["base"]), percent(accuracy["new"]), change


def _tokens(block: Block) -> tuple[str, str, str]:
    tokens = block["tokens"]
    change = f"x{ratio(tokens['ratio'])}{bracket(tokens['ratio_ci95'], ratio)}"
    return count(tokens["base_mean"]), count(tokens["new_mean"]), change


def _times(tokens: Block, name: str) -> str:
    before, after = tokens[f"base_{name}"], tokens[f"new_{name}"]
    return f"x{ratio(after / before)}" if before and after is not None else ""


def _short_percent(share: Number) -> str:
    return percent(share).removesuffix("%")


def _title(kind: str, what: str, block: Block) -> Text:
    k = "" if block["k"] is None else f" x {block['k']} samples"
    return _text(f"{kind} of {what}, {block['n']:,} problems{k}", "bold")


def _table(title: Text) -> Table:
    return Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _text(text: str, style: str = "") -> Text:
    """What any terminal can show; a ``Text`` so that brackets in a name are not taken for markup."""
    for sign, plain in (("−", "-"), ("–", "-"), ("×", "x"), ("→", "->"), ("µ", "u"), ("…", "...")):
        text = text.replace(sign, plain)
    return Text(text.encode("ascii", "replace").decode(), style=style)
