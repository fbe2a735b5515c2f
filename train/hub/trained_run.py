"""What a finished run has to offer: its settings, and in ``model/`` a whole model or a peft adapter."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..checkpoint import MANIFEST, find_defect, step_of
from ..model_files import PACKAGED, check_model_folder, read_json, resolve_model
from ..run_folder import CONFIG
from ..settings import Settings, load_settings

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""What peft writes."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""At least one of them makes a tokenizer."""


@dataclass(frozen=True)
class TrainedRun:
    """A run that has done all its steps."""

    folder: Path
    settings: Settings
    steps: int
    """Done."""
    adapter: Mapping[str, Any] | None
    """Content of ``adapter_config.json``; None for a whole model."""

    @property
    def model(self) -> Path:
        """The folder of the model or adapter."""
        return self.folder / "model"

    @property
    def public_base(self) -> str | None:
        """The base model's name where others can load it: a Hub id or a packaged name; None for a folder of yours."""
        name = self.settings.model
        return name if name in PACKAGED or not Path(name).exists() else None

    @property
    def base_title(self) -> str:
        """The base model's name without the path to it."""
        return self.public_base or Path(self.settings.model).resolve().name

    @property
    def hub_base(self) -> str | None:
        """The base model's Hub id."""
        return None if self.public_base in PACKAGED else self.public_base

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; a last line torn by a kill is left out, as the trainer does."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]


def read_run(folder: Path) -> TrainedRun:
    """The run in ``folder``.

    Raises:
        DataError: no run there, one that is not finished, or one whose model is not that of its last step.
    """
    if not (folder / CONFIG).is_file():
        raise DataError(f"{folder} is no training run: it has no {CONFIG}; give its folder, for example runs/demo")
    settings = load_settings(folder / CONFIG)
    last = _last_checkpoint(folder / "checkpoints")
    go_on = f"go on with laconic train {folder / CONFIG}"
    if last is not None and step_of(last) < settings.steps:
        raise DataError(f"{folder} is at step {step_of(last)} of {settings.steps}; {go_on}, then push")
    model = folder / "model"
    if not model.is_dir():
        raise DataError(f"{folder} has no finished model yet (no folder {model}); {go_on}, then push")
    check_up_to_date(folder, f"{go_on}, which writes it anew, then push")
    run = TrainedRun(
        folder,
        settings,
        settings.steps if last is None else step_of(last),
        read_json(model / ADAPTER_CONFIG) if (model / ADAPTER_CONFIG).is_file() else None,
    )
    _check_model(run)
    return run


def check_up_to_date(folder: Path, remedy: str) -> None:
    """Raise ``DataError`` that ends in ``remedy`` if ``model/`` of a run is not what its newest checkpoint holds."""
    last = _last_checkpoint(folder / "checkpoints")
    if last is not None and (stale := _differing(folder / "model", last)):
        raise DataError(
            f"{folder / 'model' / stale} is not what step {step_of(last)} left (see {last}), so the model is of an "
            f"earlier stage; {remedy}"
        )


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint by its files' sizes; hashing gigabytes of optimizer state would tell no more here."""
    whole = [path for path in folder.glob("step-[0-9]*") if find_defect(path, hashes=False) is None]
    return max(whole, key=step_of, default=None)


def _differing(model: Path, checkpoint: Path) -> str | None:
    """A weight file with another content than the checkpoint has in the number type of that file; None without one.

    A finished model is rounded to the type of its base, so that its files may differ from the checkpoint's.
    """
    listed = read_json(checkpoint / MANIFEST)["files"]
    changed = [
        path for path in sorted(model.glob("*.safetensors"))
        if path.name not in listed or _sha256(path) != listed[path.name]["sha256"]
    ]  # fmt: skip
    return next((path.name for path in changed if not _is_rounded(path, checkpoint)), None)


def _is_rounded(path: Path, checkpoint: Path) -> bool:
    """Whether every tensor in ``path`` is the checkpoint's, in the number type it has in ``path``."""
    import torch
    from safetensors import SafetensorError, safe_open

    where: dict[str, Any] = {}
    with ExitStack() as stack:
        try:
            for file in sorted(checkpoint.glob("*.safetensors")):
                trained = stack.enter_context(safe_open(file, framework="pt"))
                where |= dict.fromkeys(trained.keys(), trained)
            found = stack.enter_context(safe_open(path, framework="pt"))
            for name in found.keys():  # noqa: SIM118
                tensor = found.get_tensor(name)
                if name not in where or not torch.equal(where[name].get_tensor(name).to(tensor.dtype), tensor):
                    return False
        except SafetensorError:
            return False  # torn: certainly not what the checkpoint holds
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_model(run: TrainedRun) -> None:
    if run.adapter is None:
        check_model_folder(run.model)
        return
    if not (run.model / ADAPTER_WEIGHTS).is_file():
        raise DataError(f"{run.model} has an {ADAPTER_CONFIG} but no {ADAPTER_WEIGHTS}; save the adapter again")
    if not any((run.model / name).is_file() for name in TOKENIZER_FILES):
        raise DataError(f"{run.model} has no tokenizer ({', '.join(TOKENIZER_FILES)}); save the base model's there")
    base = run.adapter.get("base_model_name_or_path")
    if base and run.hub_base and not Path(base).exists() and base not in (run.hub_base, resolve_model(run.hub_base)):
        raise DataError(
            f"the adapter in {run.model} is for the base {base!r}, but the run's settings name {run.hub_base!r}; "
            "an adapter works on its own base only, so put the right one there"
        )
