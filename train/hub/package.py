"""The files of a push: weights and tokenizer as they are, and texts that are cleaned of paths of this machine."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...errors import ConfigError
from ..adapter import BASE_FILE
from ..settings import as_dict
from .evidence import Evidence
from .trained_run import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TrainedRun

CARD = "README.md"
TRAINING = "training.yaml"
"""The run's settings. Not ``config.yaml``: that name would make a downloaded folder look like a run."""
EVALUATION = "evaluation"
"""Summaries of the evaluations: ``evaluation.json``, ``evaluation-base.json``, ``evaluation-2.json`` ..."""
_CONFIG = ("config.json", "generation_config.json")
_WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
_ADAPTER = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_FILE)
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
_MADE = (CARD, TRAINING, f"{EVALUATION}*.json")


@dataclass(frozen=True)
class PlannedFile:
    """One file of the repository."""

    path: str
    """In the repository."""
    source: Path | bytes
    """A file here, or its content."""

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


def plan_files(run: TrainedRun, evidence: Evidence, card: str, merged: Path | None) -> list[PlannedFile]:
    """What will be uploaded, in the order of the listing.

    merged: folder of the merged model, for ``--merged``. Nothing else that lies in the run's folders is taken: trl's
    ``training_args.bin`` is a pickle that names paths of this machine.

    Raises:
        ConfigError: an adapter whose base nobody else can load.
    """
    files = [PlannedFile(CARD, card.encode())]
    if run.adapter is None or merged is not None:
        files += _found(merged or run.model, (*_CONFIG, *_WEIGHTS))
    else:
        files += [PlannedFile(ADAPTER_CONFIG, _adapter_config(run)), *_found(run.model, (ADAPTER_WEIGHTS, BASE_FILE))]
    files += _found(run.model, _TOKENIZER)
    files.append(PlannedFile(TRAINING, _training(run)))
    for number, one in enumerate(evidence.measured, start=1):
        suffix = "" if number == 1 else f"-{number}"
        files.append(PlannedFile(f"{EVALUATION}{suffix}.json", _json(one.summary)))
        if one.base is not None:
            files.append(PlannedFile(f"{EVALUATION}-base{suffix}.json", _json(one.base)))
    return files


def outdated(remote: Iterable[str], files: Iterable[PlannedFile]) -> list[str]:
    """Files of an earlier push that this one lacks: beside new weights, old ones would still be loaded."""
    kept = {file.path for file in files}
    ours = (*_CONFIG, *_WEIGHTS, *_ADAPTER, *_TOKENIZER, *_MADE)
    return sorted(name for name in remote if name not in kept and any(fnmatch.fnmatchcase(name, of) for of in ours))


def _found(folder: Path, patterns: Iterable[str]) -> list[PlannedFile]:
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    return [PlannedFile(path.relative_to(folder).as_posix(), path) for path in paths]


def _adapter_config(run: TrainedRun) -> bytes:
    """peft's, with the base by the name others load it by instead of the folder it was loaded from here."""
    if run.public_base is None:
        raise ConfigError(
            f"the adapter's base is the folder {run.settings.model}, which nobody else has; push it with --merged, "
            "or train with the base's Hub id as model"
        )
    return _json({**(run.adapter or {}), "base_model_name_or_path": run.public_base})


def _training(run: TrainedRun) -> bytes:
    settings = as_dict(run.settings)
    text = yaml.safe_dump(_without_folders(settings), sort_keys=False, allow_unicode=True)
    return f"# Settings of the training run; paths are shortened to their last part.\n{text}".encode()


def _without_folders(value: Any) -> Any:
    """Absolute paths, and relative ones that exist, say only their last part."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(item) for item in value]
    local = isinstance(value, str) and "\n" not in value and "/" in value
    return Path(value).name if local and (Path(value).is_absolute() or _exists(value)) else value


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # longer than any path, so it is none
        return False


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
