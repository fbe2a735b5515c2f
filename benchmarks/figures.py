"""Puts the figures into README and docs, from the result files: ``python benchmarks/figures.py [--check]``.

    benchmarks/results/*.json                   what the benchmark scripts measured
    train/thinker/weights/evaluation.json       `laconic eval tiny-thinker -n 3000 --json`
    train/methods.toml, results/learning/*.json the methods, see figures_learning.py
        -> the text between <!-- figures:begin NAME --> and <!-- figures:end --> in DOCUMENTS, docs/figures/*.png

No figure is typed by hand, and what has no result file reads "not measured yet".
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from laconic.benchmarks.claim import ROOT
from laconic.benchmarks.figures_learning import by_section, catalogue, draw_methods, learning
from laconic.benchmarks.learning import HEADLINE

DOCUMENTS = (
    "README.md",
    "docs/results.md",
    "docs/dot.md",
    "docs/methods/README.md",
    "train/thinker/weights/README.md",
)
THINKER = Path("train/thinker/weights/evaluation.json")
PICTURE = Path("docs/figures/demo.png")
GROWTH = Path("docs/figures/delethink.png")
NOT_YET = "not measured yet"
BLOCK = re.compile(r"(<!-- figures:begin (\w+) -->\n).*?(<!-- figures:end -->)", re.DOTALL)


class Words(NamedTuple):
    """How a claim reads in a table."""

    text: str
    form: str = "{:.2f}"
    scale: float = 1


WORDS = {
    "demo.seconds_total": Words("`make run` from a fresh clone, downloads included", "{:.0f} s"),
    "demo.seconds_train": Words("the training part of it", "{:.0f} s"),
    "demo.peak_gb": Words("peak memory of all its processes", "{:.1f} GB"),
    "demo.token_ratio": Words("tokens of the trained model over those of the base model", "×{:.3f}"),
    "demo.accuracy_ci_low": Words("lower end of the 95 % interval of the accuracy difference", "{:+.2f} points", 100),
    "demo.vs_control": Words("upper end of the 95 % interval of DOT's tokens over plain GRPO's", "×{:.3f}"),
    "demo.distance_to_one_pass": Words("tokens of the trained model over those of a single pass of work", "×{:.2f}"),
    "engine.tokens_per_s_vs_generate": Words("tokens per second of the embedded engine over its peer's", "×{:.2f}"),
    "engine.tokens_per_s_vs_vllm_cpu": Words(
        "tokens per second of the embedded engine over vLLM's on the CPU", "×{:.2f}"
    ),
    "tree.leaves_per_s_vs_flat_vllm": Words("answers per second of trees over flat sampling, on vLLM", "×{:.2f}"),
    "tree.decoded_ratio": Words("tokens that trees decode over flat sampling, as many answers", "×{:.2f}"),
    "tree.leaves_per_s_vs_flat": Words("answers per second of trees over flat sampling", "×{:.2f}"),
    "scheduler.overhead": Words("share of rollout time that the scheduler takes", "{:.1f} %", 100),
    "train.steps_per_s_vs_trl": Words("training steps per second over trl's", "×{:.2f}"),
    "cli.help_seconds": Words("`laconic --help`", "{:.2f} s"),
    "verify.core_agreement": Words("labelled cases judged as labelled, where graders should agree", "{:.1f} %", 100),
    "verify.convention_agreement": Words("the same where their conventions differ", "{:.1f} %", 100),
    "verify.hard_agreement": Words("the same where rounding or words must be understood", "{:.1f} %", 100),
    "verify.traces_agreement": Words("real outputs judged as by their source, lower of two sets", "{:.2f} %", 100),
    "verify.plain_per_s": Words("plain numbers judged per second by one process", "{:,.0f}"),
    "verify.parquet_100k_seconds": Words("100,000 samples graded from Parquet", "{:.1f} s"),
    "anytime.reprefill_tokens": Words("context tokens computed again for any `anytime` summary, at most", "{:.0f}"),
    "delethink.kv_growth": Words("peak live KV of Delethink, 1x to 8x thinking over 1x", "×{:.3f}"),
    "delethink.exponent_gain": Words("exponent of time against thinking, flat decoding minus Delethink"),
    "longer.token_ratio": Words("tokens against base after 300 steps, median of three seeds", "×{:.3f}"),
    "longer.accuracy_change": Words("accuracy against base after 300 steps, likewise", "{:+.2f} points", 100),
    "pack.update_vs_rows_tree": Words("speed of updates on packed trees over that of rows, pack ratio 1.8", "×{:.2f}"),
    "pack.update_vs_rows_group": Words("the same for 16 answers of 256 tokens to a prompt of 256", "×{:.2f}"),
    "pack.peak_vs_rows": Words("peak memory of these updates over that of the rows", "×{:.2f}"),
    "pack.worst_auto_choice": Words("speed of the chosen way over that of the other, at worst", "×{:.2f}"),
    "pack.host_share": Words("share of an update of 100,000 tokens spent in making packs", "{:.1f} %", 100),
    "learning.best_token_ratio": Words("tokens against base of the shortest method as accurate as the base", "×{:.3f}"),
    "learning.gvm_accuracy_gain": Words(
        "accuracy of `gvm` minus `grpo`'s, as many sampled tokens", "{:+.2f} points", 100
    ),
    "learning.brpo_anytime_gain": Words("area under budget and accuracy, `brpo` minus `grpo`", "{:+.3f}"),
    **{
        f"learning.token_ratio.{one}": Words(f"tokens of `{one}` against base, three seeds", "×{:.3f}")
        for one in HEADLINE
    },
    "soak.kills_survived_bit_equal": Words("kills at random moments after which a run ended bit-equal", "{:.0f}"),
}
"""A claim that is missing here is shown by its id."""


def main() -> int:
    """Rewrite the documents and draw the picture, or say which of them are out of date."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a text is out of date")
    check = parser.parse_args().check
    if not check:
        draw(ROOT)
    differing = 0
    for path in (ROOT / name for name in DOCUMENTS):
        text = path.read_text(encoding="utf-8")
        rendered = render(text, ROOT)
        if text == rendered:
            continue
        differing += 1
        if not check:
            path.write_text(rendered, encoding="utf-8")
        remedy = "is out of date; type: python benchmarks/figures.py" if check else "rewritten"
        print(f"{path.relative_to(ROOT)} {remedy}")
    return int(check and differing > 0)


def render(text: str, root: Path) -> str:
    """``text`` with every block filled from the result files under ``root``."""
    return BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match[2]](root)}\n{match[3]}", text)


def demo(root: Path) -> str:
    """Picture and table of the demo: base model, DOT, and plain GRPO with the same budget."""
    result = _read(root / "benchmarks/results/demo.json")
    if result is None:
        return f"The demo is {NOT_YET}; `python benchmarks/demo.py` does it."
    summary, control = result["details"]["summary"], result["details"]["control"]
    delta, one_pass = summary["delta"], summary["one_pass"]["tokens_mean"]
    rows = [("base model", summary["base"], None), ("after DOT", summary["trained"], delta)]
    rows.append(("after plain GRPO, same budget", control["trained"], control["delta"]))
    table = [
        "| | accuracy | tokens per answer | accuracy against base, points | tokens against base |",
        "|---|---|---|---|---|",
    ]
    for name, side, change in rows:
        points = tokens = ""
        if change is not None:
            points = f"{100 * change['accuracy']:+.2f} {_interval(change['accuracy_ci95'], '{:+.2f}', 100)}"
            tokens = f"×{change['token_ratio']:.3f} {_interval(change['token_ratio_ci95'], '{:.3f}')}"
        table.append(f"| {name} | {side['accuracy']:.1%} | {side['tokens_mean']:.1f} | {points} | {tokens} |")
    note = (
        "Both models answer the same problems; intervals are 95 %, paired by problem. An answer that "
        f"does the work once and stops has {one_pass:.1f} tokens. {_source(result)}"
    )
    return "\n".join([*table, "", note])


def picture(root: Path) -> str:
    """The link to the picture, once it has been drawn."""
    path = PICTURE.as_posix()
    drawn = f"![Accuracy against tokens per answer: base model, DOT, plain GRPO]({path})"
    return (
        drawn
        if (root / PICTURE).is_file()
        else f"The figure of the demo is {NOT_YET}; `python benchmarks/figures.py` draws it once the demo is."
    )


def growth(root: Path) -> str:
    """The link, from ``docs``, to the picture of time and memory over thinking length, once it has been drawn."""
    if not (root / GROWTH).is_file():
        return f"How time and memory grow with thought is {NOT_YET}; `python benchmarks/rollout.py` does it."
    path = GROWTH.relative_to("docs").as_posix()
    return f"![Time and peak KV memory against thinking tokens: flat decoding, Delethink]({path})"


def vllm(root: Path) -> str:
    """The embedded engine against vLLM, by live sequences."""
    result = _read(root / "benchmarks/results/rollout.json")
    if result is None:
        return f"The comparison with vLLM is {NOT_YET}; `python benchmarks/rollout.py` does it."
    measured = result["details"]["vllm"]["engine_against_vllm"]
    table = [
        "| live sequences | embedded, tokens/s | vLLM, tokens/s | ratio [spread] | run as |",
        "|---|---|---|---|---|",
    ]
    for row in measured["rows"]:
        table.append(
            f"| {row['live']} | {row['embedded_tokens_per_s']:,.0f} | {row['vllm_tokens_per_s']:,.0f} | "
            f"×{row['ratio']:.2f} {_interval(row['spread'], '{:.2f}')} | {row['form']}; {row['peer']} |"
        )
    return "\n".join([*table, "", f"{measured['model']}. {_source(result)}"])


def bars(root: Path) -> str:
    """Every bar of ``bars.toml`` with what was measured."""
    declared = tomllib.loads((root / "benchmarks/bars.toml").read_text())["bars"]
    found = {claim["id"]: (claim, result) for result in _results(root) for claim in result["claims"]}
    table = ["| measured | value [spread] | bar | against | command |", "|---|---|---|---|---|"]
    for name, bar in declared.items():
        words = WORDS.get(name, Words(f"`{name}`"))
        kind = "floor" if "floor" in bar else "ceiling"
        limit = f"{'≥' if kind == 'floor' else '≤'} {_number(bar[kind], words)}"
        value, peer = NOT_YET, ""
        if name in found:
            claim = found[name][0]
            value, peer = _value(claim, words), claim["peer"] or ""
        table.append(f"| {words.text} | {value} | {limit} | {peer} | `python benchmarks/{bar['script']}.py` |")
    return "\n".join([*table, "", *(f"{_source(result)}  " for result in _results(root))]).rstrip()


def findings(root: Path) -> str:
    """Claims without a bar."""
    table = ["| found | value [spread] | against | command |", "|---|---|---|---|"]
    for result in _results(root):
        for claim in (claim for claim in result["claims"] if claim["kind"] == "finding"):
            words = WORDS.get(claim["id"], Words(f"`{claim['id']}`"))
            peer = claim["peer"] or ""
            table.append(f"| {words.text} | {_value(claim, words)} | {peer} | `{result['command']}` |")
    return "\n".join(table) if len(table) > 2 else f"{NOT_YET.capitalize()}."


def thinker(root: Path) -> str:
    """Accuracy and length of the packaged weights, by task and level."""
    summary = _read(root / THINKER)
    if summary is None:
        return f"{NOT_YET.capitalize()}."
    overall, settings = summary["overall"], summary["settings"]
    table = ["| task | level | problems | accuracy | tokens | truncated |", "|---|---|---|---|---|---|"]
    for block in (overall, *summary["tasks"]):
        name = "both" if block is overall else f"`{block['task']}`"
        accuracy = block["accuracy"]["avg_at_k"]
        table.append(
            f"| {name} | all | {block['n']:,} | {accuracy['value']:.1%} {_interval(accuracy['ci95'], '{:.1f}', 100)} | "
            f"{block['tokens']['mean']:.1f} {_interval(block['tokens']['mean_ci95'], '{:.1f}')} | "
            f"{block['tokens']['trunc_rate']:.1%} |"
        )
        for level in block["levels"] if block is not overall else ():
            table.append(
                f"| {name} | {level['level']} | {level['n']:,} | {level['accuracy']:.1%} | {level['tokens']:.1f} | "
                f"{level['trunc_rate']:.1%} |"
            )
    note = (
        f"{overall['n']:,} test problems x {settings['k']} samples, temperature {settings['temperature']:g}, at most "
        f"{settings['max_completion']} tokens; 95 % intervals, clustered by problem."
    )
    return "\n".join([*table, "", note])


BLOCKS: dict[str, Callable[[Path], str]] = {
    "demo": demo, "picture": picture, "growth": growth, "vllm": vllm, "bars": bars, "findings": findings,
    "thinker": thinker, "learning": learning, "methods": by_section, "catalogue": catalogue,
}  # fmt: skip


def draw(root: Path) -> None:
    """Draw what has been measured."""
    (root / PICTURE).parent.mkdir(parents=True, exist_ok=True)
    _draw_demo(root)
    _draw_growth(root)
    draw_methods(root)


def _draw_growth(root: Path) -> None:
    """Delethink's time and memory against flat decoding's."""
    result = _read(root / "benchmarks/results/rollout.json")
    if result is None:
        return
    from laconic.eval.figures import save_png
    from laconic.eval.plots import growth_with_thought

    measured = result["details"]["lengths"]["delethink"]
    save_png(growth_with_thought(measured["thinking"], measured["sides"]), root / GROWTH)


def _draw_demo(root: Path) -> None:
    """The demo's accuracy against tokens."""
    result = _read(root / "benchmarks/results/demo.json")
    if result is None:
        return
    from laconic.eval.figures import save_png
    from laconic.eval.plots import accuracy_against_tokens

    details, summary = result["details"], result["details"]["summary"]
    limits = details["dot_against_control"]["accuracy"]
    points = {
        "base": (summary["base"], None),
        "DOT": (summary["trained"], limits["new_ci95"]),
        "plain GRPO": (details["control"]["trained"], limits["base_ci95"]),
    }
    blocks = {
        name: {
            "accuracy": {"avg_at_k": {"value": side["accuracy"], "ci95": ci95}},
            "tokens": {"mean": side["tokens_mean"], "mean_ci95": None},
        }
        for name, (side, ci95) in points.items()
    }
    save_png(accuracy_against_tokens(blocks, summary["one_pass"]["tokens_mean"]), root / PICTURE)


def _read(path: Path) -> dict[str, Any] | None:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _results(root: Path) -> list[dict[str, Any]]:
    files = sorted((root / "benchmarks/results").glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def _value(claim: dict[str, Any], words: Words) -> str:
    spread = claim.get("spread")
    shown = _number(claim["value"], words)
    return f"{shown} {_interval(spread, words.form, words.scale)}" if isinstance(spread, list) else shown


def _number(value: float, words: Words) -> str:
    return words.form.format(value * words.scale)


def _interval(ends: Any, form: str, scale: float = 1) -> str:
    """``[low, high]`` without units."""
    if ends is None:
        return ""
    bare = re.sub(r"[^{}]*(\{[^}]*\})[^{}]*", r"\1", form)
    return f"[{', '.join(bare.format(end * scale) for end in ends)}]"


def _source(result: dict[str, Any]) -> str:
    machine = result["machine"]
    where = ", ".join(str(part) for part in (machine["gpu"], machine["cpu"], f"{machine['cores']} cores") if part)
    return f"`{result['command']}`, {result['date'][:10]}, {where}, torch {machine['torch']}."


if __name__ == "__main__":
    sys.exit(main())
