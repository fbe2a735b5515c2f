"""The evaluations that measured exactly these weights, each with one of the base model under the same settings.

An evaluation belongs to a model when the hash of the weights it decoded with is that of the model: a folder's name says
nothing once a run has gone on. Searched are the run's own subfolders, ``eval/`` beside the run, and ``runs/eval``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...eval.paired import compare_runs, differences
from ...eval.records import SAMPLES
from ..evaluation import EVALUATIONS
from ..model_files import PACKAGED
from .trained_run import TrainedRun

Summary = Mapping[str, Any]
SUMMARY = "summary.json"
_NEEDED = ("model", "settings", "overall", "tasks", "hardware", "versions")


@dataclass(frozen=True)
class Measured:
    """One evaluation of the trained model."""

    summary: Summary
    base: Summary | None
    """The base model's under the same settings, if there is one."""
    comparison: Summary | None
    """``compare_runs`` of both."""


@dataclass(frozen=True)
class Evidence:
    """What was measured, and what a person should know about what was not."""

    measured: tuple[Measured, ...]
    notes: tuple[str, ...]


def gather_evidence(run: TrainedRun) -> Evidence:
    """The evaluations of the run's weights, one per set of tasks: that of most samples, then the newest."""
    found = _evaluations(run)
    remedy = f"type: laconic eval {run.folder} --out {run.folder / 'evaluation'}, then push again"
    if not found:
        return Evidence((), (f"no evaluation of {run.folder} was found, and the model card says so; {remedy}",))
    from .weights import base_hashes, trained_hashes

    ours = _of(found, lambda dtypes: trained_hashes(run, dtypes))
    if not ours:
        return Evidence(
            (),
            (
                f"none of the {len(found)} evaluations found ({_listed(found)}) is of the weights in {run.model}, and "
                f"the model card says that they are not evaluated; {remedy}",
            ),
        )
    others = {folder: summary for folder, summary in found.items() if folder not in ours}
    chosen = _largest(ours)
    candidates = {f: s for f, s in others.items() if not all(differences(s, one) for one in chosen.values())}
    bases: dict[Path, Summary] = {}
    if candidates and _on_disk(run.settings.model):
        bases = _of(candidates, lambda dtypes: base_hashes(run, dtypes))
    measured = [_measured(folder, summary, bases) for folder, summary in chosen.items()]
    notes: tuple[str, ...] = ()
    if not any(one.base for one in measured):
        command = f"laconic eval {run.settings.model} --out {run.folder / 'evaluation-base'}"
        notes = (
            "no evaluation of the base model under the same settings was found, so the card compares nothing; "
            f"type: {command} with the options of the other evaluation, then push again",
        )
    return Evidence(tuple(measured), notes)


def _evaluations(run: TrainedRun) -> dict[Path, Summary]:
    """Finished evaluations in the places where they are written."""
    places = [run.folder, run.folder.parent / "eval", EVALUATIONS]
    folders = {path.parent.resolve(): path.parent for place in places for path in sorted(place.glob(f"*/{SUMMARY}"))}
    found = {}
    for folder in folders.values():
        try:
            summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{folder / SUMMARY} is not valid JSON ({error}); remove {folder}") from error
        # A demo's summary.json is none of an evaluation.
        whole = isinstance(summary, dict) and all(name in summary for name in _NEEDED)
        if whole and summary["model"].get("weights_hash") and (folder / SAMPLES).is_file():
            found[folder] = summary
    return found


def _of(found: Mapping[Path, Summary], hashes: Callable[[Iterable[str]], set[str]]) -> dict[Path, Summary]:
    """Those evaluations whose weights have one of the hashes, for the number types they were computed in."""
    known = hashes({summary["model"]["dtype"] or "float32" for summary in found.values()})
    return {folder: summary for folder, summary in found.items() if summary["model"]["weights_hash"] in known}


def _on_disk(model: str) -> bool:
    """Whether the model can be loaded without fetching gigabytes."""
    from huggingface_hub import try_to_load_from_cache

    return model in PACKAGED or Path(model).exists() or isinstance(try_to_load_from_cache(model, "config.json"), str)


def _largest(ours: Mapping[Path, Summary]) -> dict[Path, Summary]:
    best: dict[tuple[str, ...], Path] = {}

    def rank(folder: Path) -> tuple[int, float]:
        return ours[folder]["overall"]["n_samples"], (folder / SUMMARY).stat().st_mtime

    for folder in sorted(ours, key=rank):
        best[tuple(ours[folder]["settings"]["tasks"])] = folder
    return {folder: ours[folder] for folder in best.values()}


def _measured(folder: Path, summary: Summary, bases: Mapping[Path, Summary]) -> Measured:
    for base_folder, base in bases.items():
        if not differences(base, summary):
            return Measured(summary, base, compare_runs(base_folder, folder))
    return Measured(summary, None, None)


def _listed(folders: Iterable[Path]) -> str:
    shown = [str(folder) for folder in folders]
    return ", ".join(shown[:3]) + (", ..." if len(shown) > 3 else "")
