"""``laconic push``: from a run's folder to a repository on the Hugging Face Hub."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ..model_files import PACKAGED
from .card import render_card
from .evidence import gather_evidence
from .package import CARD, PlannedFile, plan_files
from .trained_run import TrainedRun, read_run


def push_run(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    merge: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Push a finished run; returns what ``laconic push --json`` prints.

    repo: ``user/name``, or ``name`` for the token's owner. private: make the repository private; one that exists must
    be. merge: push the base with the adapter merged into it instead of the adapter. dry_run: print the card and the
    files and stop, without network or token.

    Raises ``DataError`` for a run that is not finished, ``ConfigError`` for a name, token or repository that does not
    do, ``RunError`` when the upload failed, which the same call then continues.
    """
    from huggingface_hub.utils import disable_progress_bars

    from . import upload

    if quiet:
        disable_progress_bars()
    run = read_run(folder)
    if merge and run.adapter is None:
        raise ConfigError(f"--merged merges an adapter, but {run.model} is a whole model; leave --merged out")
    upload.check_name(repo)
    target = None if dry_run else upload.connect(repo, private=private)
    repo = repo if target is None else target.repo
    evidence = gather_evidence(run)
    licence = _licence(run)
    with tempfile.TemporaryDirectory(prefix="laconic-push-") as temporary:
        merged = _merge(run, Path(temporary)) if merge else None
        card = render_card(run, evidence, repo, merged=merge, licence=licence)
        files = plan_files(run, evidence, card, merged)
        result: dict[str, Any] = {
            "repo": repo,
            "kind": "model" if run.adapter is None else "merged model" if merge else "adapter",
            "evaluations": len(evidence.measured),
            "notes": [*evidence.notes, *([] if licence else [f"the licence of {run.base_title} is not known"])],
            "files": [{"path": file.path, "bytes": file.size} for file in files],
        }
        if not quiet:
            _print_plan(result, card if dry_run else None, files)
        if target is None:
            return {**result, "dry_run": True, "card": card}
        pushed = upload.upload(
            target,
            files,
            private=private,
            message=f"laconic push: {run.settings.name}, step {run.steps}",
            report=_silent if quiet else print,
        )
    if not quiet:
        print(f"pushed to {pushed.url}, commit {pushed.commit[:8]}\nnext: laconic eval {repo}")
    return {**result, "url": pushed.url, "commit": pushed.commit}


def _licence(run: TrainedRun) -> dict[str, str]:
    """The base's: of its card here, or on the Hub."""
    from .upload import base_licence, local_licence

    if run.hub_base:
        return base_licence(run.hub_base)
    card = PACKAGED.get(run.settings.model, Path(run.settings.model)) / CARD
    return local_licence(card.read_text(encoding="utf-8")) if card.is_file() else {}


def _merge(run: TrainedRun, folder: Path) -> Path:
    from .weights import save_merged

    save_merged(run, folder)
    return folder


def _print_plan(result: dict[str, Any], card: str | None, files: Sequence[PlannedFile]) -> None:
    if card is not None:
        print(card)
    total = sum(file.size for file in files)
    width = max(len(file.path) for file in files)
    print(f"{result['repo']}: {result['kind']}, {len(files)} files, {total:,} bytes")
    for file in files:
        print(f"  {file.path:<{width}}  {file.size:>15,}")
    for note in result["notes"]:
        print(f"note: {note}", file=sys.stderr)


def _silent(_text: str) -> None:
    return
