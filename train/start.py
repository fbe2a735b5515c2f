"""How a training run starts: read, check, say what follows, and only then do anything heavy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from .adapter import check_reachable
from .cautions import find_warnings
from .checks import check_settings
from .derived import derive, summary
from .model_config import model_config
from .settings import Settings, as_dict, load_settings

RUNS = Path("runs")
"""Where runs go, below the current folder."""


def start(config: Path, overrides: Sequence[str], *, dry_run: bool = False, quiet: bool = False) -> dict[str, Any]:
    """What ``laconic train`` does; returns what ``--json`` prints.

    A dry run needs no network, no data and no weights, and writes nothing.

    Raises:
        ConfigError: the settings cannot work.
        DataError, RunError: the data, the model or the run are unusable.
    """
    quiet = quiet or os.environ.get("RANK", "0") != "0"  # of several ranks the first one speaks
    settings = load_settings(config, overrides)
    facts = model_config(settings.model)
    check_settings(settings, facts)
    warnings = find_warnings(settings)
    if not quiet:
        _say(settings, derive(settings, facts), warnings)
    run_dir = RUNS / settings.name
    result = {"settings": as_dict(settings), "derived": summary(settings, facts), "warnings": warnings}
    if dry_run:
        if not quiet:
            Console(highlight=False).print("dry run: the settings are valid, nothing was started")
        return {**result, "started": False}
    check_reachable(settings.model)
    # Imported here: a dry run needs no trl, and torch only where a driver's markers are checked.
    from .run import run_training

    model = run_training(settings, run_dir, quiet=quiet)
    if not quiet:
        Console(highlight=False).print(f"model: {model}\nnext: laconic eval {run_dir}")
    return {**result, "started": True, "run": str(run_dir), "model": str(model)}


def _say(settings: Settings, lines: Sequence[str], warnings: Sequence[str]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    data = settings.task.file
    if data and not Path(data).is_file():
        lines = [*lines, f"data: {data} is not there yet; the run will need it"]
    console.print(f"[bold]{settings.name}[/bold]: {settings.model} -> {RUNS / settings.name}")
    for line in lines:
        console.print(f"  {line}", markup=False)
    for warning in warnings:
        console.print(f"  warning: {warning}", style="yellow", markup=False)
