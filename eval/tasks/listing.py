"""``laconic tasks``: what can be asked by name, and what in two files or sets is the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ...errors import DataError
from ..power import ALPHA, POWER, SPREAD, least_difference
from . import PROCEDURAL
from .benchmarks import BENCHMARKS, Benchmark
from .load import bare_problems
from .local import read_rows
from .named import local_file
from .overlap import Overlap, find_overlaps
from .settings import TaskSettings

NOTE = (
    f"certifies: least true difference in accuracy that a paired comparison of two models finds ({POWER:.0%} power, "
    f"two-sided {ALPHA:.0%}), 2.80 sqrt((sd^2 + 2w/k)/n) for n problems and k samples each. Assumed: the difference "
    f"varies by sd = {SPREAD:g} over problems; w, the mean p(1-p), is 0.05 for easy sets and 0.1 for hard ones."
)


def task_rows(samples: int | None = None, data_dir: str | None = None) -> list[dict[str, Any]]:
    """One row per family and named set, as ``laconic tasks --json`` prints them.

    samples: k of the certified difference; without it each set's usual one.
    data_dir: folder whose files are counted (``local``).
    """
    families = [
        {"name": name, "role": "both", "kind": "procedural", "size": None, "local": None, "k": None, "certifies": None,
         "levels": f"{task.levels[0]}-{task.levels[-1]}", "licence": "ours", "hub": None, "gated": False,
         "verifier": "exact"}
        for name, task in PROCEDURAL.items()
    ]  # fmt: skip
    return [*families, *(_row(benchmark, samples, data_dir) for benchmark in BENCHMARKS.values())]


def print_tasks(rows: Sequence[dict[str, Any]]) -> None:
    """The list for people."""
    from rich.console import Console
    from rich.table import Table

    counted = any(row["local"] is not None for row in rows)
    # One more column leaves one space between them, or 80 characters would not do.
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0) if counted else (0, 1))
    for heading in ("task", "for", "problems", *(("here",) if counted else ()), "k", "certifies"):
        table.add_column(heading, no_wrap=True, justify="left" if heading in ("task", "for") else "right")
    table.add_column("levels", no_wrap=True)
    table.add_column("licence", no_wrap=True)
    for row in rows:
        certified = "" if row["certifies"] is None else f"{100 * row['certifies']:.1f} pt"
        size = "any" if row["size"] is None else f"{row['size']:,}"
        here = ("" if row["local"] is None else f"{row['local']:,}",) if counted else ()
        table.add_row(
            row["name"], row["role"], size, *here, str(row["k"] or ""), certified, row["levels"],
            row["licence"] + (" (login)" if row["gated"] else ""),
        )  # fmt: skip
    console = Console(highlight=False)
    console.print(table)
    console.print(f"\n{NOTE}\n", markup=False)
    console.print("next: laconic eval MODEL --task math500 [--data-dir FOLDER]", markup=False)


RENAME = "rename one to {name!r}; only question, problem and answer are known besides"
"""What to do about a missing column where no option maps it."""


def overlap_report(first: str, second: str, data_dir: str | None = None) -> dict[str, Any]:
    """What ``laconic tasks --overlap A B`` prints: sizes, counts and the pairs. A, B: names or files."""
    task = TaskSettings(data_dir=data_dir)
    one, other = (bare_problems(name, task, RENAME) for name in (first, second))
    found = find_overlaps(one, other)
    kinds = [overlap.kind for overlap in found]
    return {
        "first": first,
        "second": second,
        "sizes": [len(one), len(other)],
        "exact": kinds.count("exact"),
        "near": kinds.count("near"),
        "pairs": [asdict(overlap) for overlap in found],
    }


def print_overlap(report: dict[str, Any]) -> None:
    """The pairs for people, a line each."""
    from rich.console import Console

    console = Console(highlight=False)
    for pair in report["pairs"]:
        overlap = Overlap(**pair)
        console.print(
            f"{overlap.kind:5}  {overlap.similarity:.2f}  {overlap.train_id}  {overlap.test_id}", markup=False,
            soft_wrap=True,
        )  # fmt: skip
    (first, second), count = report["sizes"], len(report["pairs"])
    console.print(
        f"{count:,} of {first:,} problems of {report['first']} are in {report['second']} ({second:,} problems) too: "
        f"{report['exact']:,} word for word, {report['near']:,} nearly",
        markup=False,
        soft_wrap=True,
    )


def _row(benchmark: Benchmark, samples: int | None, data_dir: str | None) -> dict[str, Any]:
    path = local_file(benchmark, data_dir)
    local = None if path is None else len(read_rows(path))
    if local == 0:
        raise DataError(f"{path} holds no rows; remove it, or fill it")
    k = benchmark.k if samples is None else samples
    test = benchmark.role == "test"
    return {
        "name": benchmark.name,
        "role": benchmark.role,
        "kind": benchmark.style,
        "size": benchmark.size,
        "local": local,
        "k": k if test else None,
        "certifies": least_difference(local or benchmark.size, k, within=benchmark.within) if test else None,
        "levels": benchmark.levels,
        "licence": benchmark.licence,
        "hub": benchmark.hub,
        "gated": benchmark.gated,
        "verifier": benchmark.verifier,
    }
