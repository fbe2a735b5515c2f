"""What ``laconic compare`` does, and the reports of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .paired import compare_runs
from .settings import EvalConfig


def report_evaluation(folder: Path, *, quiet: bool = False) -> Path:
    """Write ``report.html`` and its plots beside the ``summary.json`` of a finished evaluation; returns its path."""
    from .report import write_report

    report = write_report(folder, base=folder)
    if not quiet:
        from rich.console import Console

        Console(highlight=False).print(f"report: {report}", markup=False, soft_wrap=True)
    return report


def compare_folders(
    base: Path,
    new: Path,
    *,
    margin: float = EvalConfig.margin,
    html: Path | None = None,
    allow_different: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """What ``laconic compare`` does; returns what ``--json`` prints, as ``laconic.eval.paired.compare_runs``.

    Raises ``ConfigError`` for two evaluations made under different settings, ``DataError`` for a folder without one.
    """
    if html is not None and html.suffix != ".html":
        raise ConfigError(f"--html {html} is the report's file, not its folder; give a name that ends in .html")
    comparison = compare_runs(base, new, margin=margin, allow_different=allow_different)
    labels = (base.name, new.name)
    if html is not None:
        from .report import write_report

        meta = {"command": f"laconic compare {base} {new} --html {html}"}
        write_report(
            html.parent, base=base, trained=new, comparison=comparison, labels=labels, meta=meta, file_name=html.name
        )
    if not quiet:
        from rich.console import Console

        from .tables import comparison_table

        console = Console(highlight=False)
        console.print(comparison_table(comparison, labels))
        if html is not None:
            console.print(f"report: {html}", markup=False)
    return comparison
