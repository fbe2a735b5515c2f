"""What stands in the tables of a report: cells of text made of the numbers of summaries and comparisons.

A ``Cell`` has a main line and a smaller second one. Nothing is computed here that is not in ``summary.json`` or in the
comparison, except the ratio of two printed values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .wording import DASH, bracket, count, from_to, interval, margin_words, percent, ratio, seconds, signed_points

Block = Mapping[str, Any]


class Cell(NamedTuple):
    """One cell of a table."""

    main: str
    sub: str = ""
    verdict: str = ""
    """Set where the cell carries a verdict; the page marks it with a colour as well."""


class Table(NamedTuple):
    """Column titles (the first is of the row titles) and rows of (title, cells)."""

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]


def headline_table(base: Block, trained: Block | None, comparison: Block | None) -> Table:
    """Accuracy, length and cost per task; ``base`` and ``trained`` are summaries."""
    if trained is None or comparison is None:
        return _alone(base)
    rows = []
    for block in shown_blocks(comparison):
        before, after = block_of(base, block["task"]), block_of(trained, block["task"])
        accuracy, tokens = block["accuracy"], block["tokens"]
        rows.append(
            (
                task_name(block["task"]),
                [
                    Cell(
                        from_to(percent(accuracy["base"]), percent(accuracy["new"])),
                        f"{signed_points(accuracy['delta'])} points{bracket(accuracy['ci95'], signed_points)}",
                        accuracy["verdict"],
                    ),
                    Cell(
                        from_to(count(tokens["base_mean"]), count(tokens["new_mean"])),
                        f"×{ratio(tokens['ratio'])}{bracket(tokens['ratio_ci95'], ratio)}",
                    ),
                    Cell(from_to(percent(tokens["base_trunc_rate"]), percent(tokens["new_trunc_rate"]))),
                    Cell(from_to(percent(before["tokens"]["loop_rate"]), percent(after["tokens"]["loop_rate"]))),
                    *_cost_cells(block["cost"] and block["cost"]["base"], block["cost"] and block["cost"]["new"]),
                ],
            )
        )
    cost = shown_blocks(comparison)[0]["cost"]
    columns = ["task", "accuracy", "tokens per answer", "truncated", "loops"]
    return Table([*columns, *_cost_columns(cost and cost["new"])], rows)


def level_table(base: Block, comparison: Block | None) -> Table | None:
    """Accuracy and length by difficulty; None where there are no levels."""
    rows = []
    for block in base["tasks"] if comparison is None else comparison["tasks"]:
        for row in block["levels"]:
            title = f"{block['task']} {row['level']}"
            if comparison is None:
                cells = [
                    Cell(percent(row["accuracy"]), interval(row["accuracy_ci95"], percent)),
                    Cell(count(row["tokens"]), interval(row["tokens_ci95"], count)),
                    Cell(percent(row["trunc_rate"])),
                ]
            else:
                cells = [
                    Cell(from_to(percent(row["base_accuracy"]), percent(row["new_accuracy"]))),
                    Cell(signed_points(row["delta"]), interval(row["delta_ci95"], signed_points)),
                    Cell(from_to(count(row["base_tokens"]), count(row["new_tokens"]))),
                    Cell(f"×{ratio(row['ratio'])}", interval(row["ratio_ci95"], ratio)),
                ]
            rows.append((title, [Cell(str(row["n"])), *cells]))
    if not rows:
        return None
    if comparison is None:
        return Table(["level", "problems", "accuracy", "tokens", "truncated"], rows)
    return Table(["level", "problems", "accuracy", "points", "tokens", "ratio"], rows)


def detail_table(base: Block, trained: Block | None, labels: Sequence[str]) -> Table:
    """Further measures over all problems, of one or two summaries."""
    sides = [base["overall"]] + ([] if trained is None else [trained["overall"]])
    rows: list[tuple[str, Sequence[Cell]]] = []

    def row(title: str, values: Sequence[Any], show: Any) -> None:
        cells = [Cell(show(value)) for value in values]
        if trained is not None:
            known = None not in values and values[0]
            cells.append(Cell(f"×{ratio(values[1] / values[0])}" if known else DASH))
        rows.append((title, cells))

    for key, title in _TOKENS.items():
        row(title, [side["tokens"][key] for side in sides], count)
    row("tokens per right answer", [side["efficiency"]["tpc"] for side in sides], count)
    for k in sides[0]["accuracy"]["pass_at"]:
        if all(k in side["accuracy"]["pass_at"] for side in sides):
            row(f"pass@{k}", [side["accuracy"]["pass_at"][k] for side in sides], percent)
    if all(side["cost"] for side in sides):
        row("FLOPs per answer", [side["cost"]["flops_mean"] for side in sides], _engineering)
        row("bytes of KV cache read per answer", [side["cost"]["kv_read_mean"] for side in sides], _engineering)
        row("bytes of KV cache held at the end", [side["cost"]["peak_kv_mean"] for side in sides], _engineering)
    return Table(["all tasks together", *labels, *([] if trained is None else ["ratio"])], rows)


def pair_facts(block: Block) -> list[tuple[str, str]]:
    """What only a comparison knows, as (name, text)."""
    accuracy, tokens, score, cut = block["accuracy"], block["tokens"], block["aes"], block["truncation"]
    weights = score["weights"]
    return [
        ("verdict", accuracy["sentence"]),
        ("p-value of the accuracy difference", f"{accuracy['p']:.3g} (sign-flip test, {accuracy['p_method']})"),
        (
            "smallest accuracy difference found with 80% power",
            DASH if accuracy["mdd"] is None else margin_words(round(accuracy["mdd"], 4)),
        ),
        (
            "token ratio of a typical problem (geometric mean)",
            f"{ratio(tokens['geometric'])}, 95% interval {interval(tokens['geometric_ci95'], ratio)}",
        ),
        (
            "share of the saving due to fewer truncations",
            percent(cut["explained_by_runaways"]),
        ),
        (
            f"AES with weights {weights['alpha']:g}, {weights['beta']:g}, {weights['gamma']:g}",
            f"{_plain(score['value'])}, 95% interval {interval(score['ci95'], _plain)}",
        ),
    ]


def shown_blocks(source: Block) -> list[Block]:
    """The blocks worth a row: all problems together only where there are several tasks."""
    return list(source["tasks"]) if len(source["tasks"]) == 1 else [source["overall"], *source["tasks"]]


def block_of(summary: Block, task: str) -> Block:
    """The block of a task by its name."""
    return next((block for block in summary["tasks"] if block["task"] == task), summary["overall"])


def task_name(task: str) -> str:
    """``all`` is spelled out."""
    return "all tasks" if task == "all" else task


_TOKENS = {
    "mean": "tokens, mean",
    "median": "tokens, median",
    "p90": "tokens, 90th percentile",
    "p99": "tokens, 99th percentile",
    "think_mean": "tokens of thought, mean",
    "answer_mean": "tokens of the answer part, mean",
    "correct_mean": "tokens of right responses, mean",
    "incorrect_mean": "tokens of wrong responses, mean",
}


def _alone(summary: Block) -> Table:
    rows = []
    for block in shown_blocks(summary):
        accuracy, tokens = block["accuracy"]["avg_at_k"], block["tokens"]
        rows.append(
            (
                task_name(block["task"]),
                [
                    Cell(percent(accuracy["value"]), interval(accuracy["ci95"], percent)),
                    Cell(count(tokens["mean"]), interval(tokens["mean_ci95"], count)),
                    Cell(percent(tokens["trunc_rate"])),
                    Cell(percent(tokens["loop_rate"])),
                    Cell(count(block["efficiency"]["tpc"])),
                    *_cost_cells(block["cost"], None),
                ],
            )
        )
    columns = ["task", "accuracy", "tokens per answer", "truncated", "loops", "tokens per right answer"]
    return Table([*columns, *_cost_columns(summary["overall"]["cost"])], rows)


def _cost_columns(cost: Block | None) -> list[str]:
    if not cost:
        return []
    return ["latency, B = 1", f"GPU time per 1,000, B = {_busiest(cost)}"]


def _cost_cells(before: Block | None, after: Block | None) -> list[Cell]:
    """Latency alone, and GPU time of a thousand answers at the largest batch."""
    if not before:
        return []
    batch = _busiest(before)
    cells = []
    for values in (
        [side["latency_b1_mean"] for side in (before, after) if side],
        [1000 * side["gpu_s"][batch] for side in (before, after) if side],
    ):
        change = f"×{ratio(values[1] / values[0])}" if len(values) == 2 and values[0] else ""
        cells.append(Cell(from_to(*seconds(*values)), change))
    return cells


def _busiest(cost: Block) -> str:
    return max(cost["gpu_s"], key=int)


def _engineering(value: float | None) -> str:
    """``2.05e7`` -> ``20.5 M``."""
    if value is None:
        return DASH
    for scale, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.3g} {prefix}"
    return f"{value:.3g}"


def _plain(value: float | None) -> str:
    return DASH if value is None else f"{value:.2f}".replace("-", "−")
