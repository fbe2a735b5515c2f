"""Tables and picture of the methods, for ``figures.py``: which there are, and what each made of the tiny thinker.

train/methods.toml, headings of docs/**/*.md       which there are, and where each is described
benchmarks/results/learning/<id>-<seed>.json       what ``benchmarks/learning.py`` measured
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from laconic.train.methods import METHODS, STAGES

PICTURE = Path("docs/figures/methods.png")
NOT_MEASURED = "The methods are not measured yet; `python benchmarks/learning.py` does it."


def outcomes(root: Path) -> dict[str, list[Mapping[str, Any]]]:
    """Result files by method, the seeds of each in order; methods with the fewest tokens first."""
    paths = sorted((root / "benchmarks/results/learning").glob("*-[0-9].json"))
    found = by_method([json.loads(path.read_text(encoding="utf-8")) for path in paths])
    return dict(sorted(found.items(), key=lambda one: mean(one[1], "tokens")))


def by_method(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Outcomes of all seeds of each method."""
    methods: dict[str, list[Mapping[str, Any]]] = {}
    for outcome in outcomes:
        methods.setdefault(outcome["method"], []).append(outcome)
    return methods


def mean(lines: Sequence[Mapping[str, Any]], key: str) -> float:
    """Over seeds; NaN where one has no number, as tokens per right answer without one."""
    return sum(math.nan if line[key] is None else float(line[key]) for line in lines) / len(lines)


def pages(root: Path) -> dict[str, str]:
    """Method -> the page, relative to ``docs``, one of whose headings names it, with the heading's anchor."""
    found: dict[str, str] = {}
    for path in sorted((root / "docs").rglob("*.md")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("#"):
                anchor = re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
                link = f"{path.relative_to(root / 'docs').as_posix()}#{anchor}"
                for name in re.findall(r"`(\w+)`", line):
                    found.setdefault(name, link)
    return found


def by_section(root: Path) -> str:
    """One line for each section of the settings: its methods, linked to their pages."""
    where = pages(root)
    table = ["| section | methods |", "|---|---|"]
    for stage in STAGES:
        names = [_linked(one.id, "docs/", where) for one in METHODS if one.stage == stage]
        table.append(f"| `{stage}` | {', '.join(names)} |")
    return "\n".join(table)


def catalogue(root: Path) -> str:
    """Every method with its paper, page, configuration and result."""
    where, measured = pages(root), outcomes(root)
    blocks = []
    for stage in STAGES:
        blocks += [f"## `{stage}`", ""]
        blocks += ["| method | what it does | paper | configuration | tokens | accuracy |", "|---|---|---|---|---|---|"]
        for one in (method for method in METHODS if method.stage == stage):
            paper = f"[{one.paper}](https://arxiv.org/abs/{one.paper})" if one.paper else ""
            ratio, change = _result(measured.get(one.id, []))
            name = _linked(one.id, "../", where)
            blocks.append(f"| {name} | {one.line} | {paper} | `{one.config}` | {ratio} | {change} |")
        blocks.append("")
    return "\n".join(blocks).rstrip()


def _linked(method: str, way: str, where: Mapping[str, str]) -> str:
    return f"[`{method}`]({way}{where[method]})" if method in where else f"`{method}`"


def _result(lines: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    if not lines:
        return "", ""
    return f"×{mean(lines, 'token_ratio'):.2f}", f"{100 * mean(lines, 'accuracy_change'):+.1f}"


def learning(root: Path) -> str:
    """What every method made of the same model for the same sampling."""
    found = outcomes(root)
    if not found:
        return NOT_MEASURED
    table = [
        "| method | seeds | accuracy, points against base | tokens | against base | AES | per right answer | "
        "groups with signal | steps | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method, lines in found.items():
        low, high = (sum(line["accuracy_change_ci95"][end] for line in lines) / len(lines) for end in (0, 1))
        least, most = (sum(line["token_ratio_ci95"][end] for line in lines) / len(lines) for end in (0, 1))
        table.append(
            f"| `{method}` | {len(lines)} | {mean(lines, 'accuracy'):.1%}, {100 * mean(lines, 'accuracy_change'):+.1f} "
            f"[{100 * low:+.1f}, {100 * high:+.1f}] | {mean(lines, 'tokens'):.1f} | "
            f"×{mean(lines, 'token_ratio'):.3f} [{least:.3f}, {most:.3f}] | {mean(lines, 'aes'):.2f} | "
            f"{mean(lines, 'tokens_per_right'):.1f} | {mean(lines, 'signal'):.0%} | {mean(lines, 'steps'):.0f} | "
            f"{mean(lines, 'seconds'):.0f} |"
        )
    first = next(iter(found.values()))[0]
    note = (
        f"`python benchmarks/learning.py`: {first['budget']:,} decoded tokens each, evaluated on {first['problems']:,} "
        f"problems x {first['samples']} answers; 95 % intervals, paired by problem; seeds averaged, intervals too."
    )
    summary = root / "benchmarks/results/learning.json"
    if summary.exists() and (best := json.loads(summary.read_text(encoding="utf-8"))["details"]["best"]):
        note += f" Shortest of those as accurate as the base: `{best}`."
    picture = f"![Accuracy against tokens of every method]({PICTURE.relative_to('docs').as_posix()})"
    return "\n".join([picture, "", *table, "", note])


def draw_methods(root: Path) -> None:
    """Accuracy against tokens of every method, and the front of those that no other beats in both."""
    found = outcomes(root)
    if not found:
        return
    from laconic.eval.figures import save_png
    from laconic.eval.plots import pareto_front

    points = {name: (mean(lines, "tokens"), mean(lines, "accuracy")) for name, lines in found.items()}
    base = next(iter(found.values()))[0]
    start = (base["base_tokens"], base["base_accuracy"])
    save_png(pareto_front(points, start), root / PICTURE)
