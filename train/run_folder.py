"""One run, one folder, one configuration, one process at a time.

    runs/<name>/config.yaml   the resolved settings the folder was made with
    runs/<name>/run.lock      held by the process that trains into it

A run goes on only with the settings it began with, save for those in ``MAY_CHANGE``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from ..atomic import write_atomically
from ..errors import ConfigError
from ..locking import lock, unlock
from .settings import Settings, as_dict
from .settings_io import build, plain

CONFIG = "config.yaml"
MAY_CHANGE = (
    "name",
    "steps",
    "tokens",
    "save",
    "eval",
    "threads",
    "trl.logging_steps",
    "trl.report_to",
    "trl.run_name",
)
"""Settings (and all below them) that may differ when a run goes on: none alters what the steps already done computed.

Other ``steps`` with a schedule that is not ``constant`` bend the learning rate from there on, and other ``threads``
alter the order of sums: the run then goes on well, but not bit for bit as it would have.
"""
_LEFT_BY_A_RUN = ("checkpoints", "metrics.jsonl", "rollouts")
_ABSENT = "absent"


@dataclass(frozen=True)
class RunFolder:
    """A folder that this process may write to until ``release`` or its end, however it ends."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def rollouts(self) -> Path:
        return self.path / "rollouts"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    def release(self) -> None:
        """Let another process have the folder."""
        unlock(self.path)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


def claim_run_folder(run_dir: Path, settings_dict: Mapping[str, Any], *, resume: bool = True) -> RunFolder:
    """Make ``run_dir`` with its ``config.yaml``, or take up one that was made with the same settings.

    Args:
        run_dir: ``runs/<name>``.
        settings_dict: the resolved settings as nested mappings of plain values.
        resume: False refuses a folder in which a run has begun.

    Raises:
        ConfigError: the folder was made with other settings, holds a run without its settings, or cannot be made.
        RunError: another process is training into it.
    """
    path = run_dir.resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock(path, run_dir, "training into", "choose another name=...")
    except OSError as error:
        raise ConfigError(
            f"cannot write to run folder {run_dir}: {error.strerror}; choose another name=... or run elsewhere"
        ) from error
    folder = RunFolder(path)
    try:
        _compare_and_write(run_dir, plain(settings_dict), resume)
    except BaseException:
        folder.release()
        raise
    return folder


def _compare_and_write(run_dir: Path, settings: Any, resume: bool) -> None:
    config = run_dir / CONFIG
    begun = [name for name in _LEFT_BY_A_RUN if (run_dir / name).exists()]
    if config.exists():
        if not resume:
            raise ConfigError(f"run folder {run_dir} exists; choose another name=..., or delete it, or resume it")
        differing = _differences(_with_defaults(_load(config)), _with_defaults(settings))
        refused = {key: pair for key, pair in differing.items() if not _may_change(key)}
        if refused:
            listed = "; ".join(f"{key}: {old} -> {new}" for key, (old, new) in refused.items())
            raise ConfigError(
                f"run folder {run_dir} was made with other settings ({listed}); "
                f"choose another name=..., or set these back to go on with it, or delete {run_dir} to start over"
            )
        if not differing:
            return
    elif begun:
        raise ConfigError(
            f"run folder {run_dir} holds {', '.join(begun)} but no {CONFIG}, so nothing says what made them; "
            f"choose another name=... or delete {run_dir}"
        )
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    write_atomically(config, text.encode())


def _with_defaults(settings: Any) -> Any:
    """``settings`` with the defaults of what they do not name, as those of an earlier version do not name later fields.

    Those that this version does not take stay as they are, so that a comparison names what it does not know.
    """
    try:
        return as_dict(build(Settings, settings))
    except ConfigError:
        return settings


def _load(config: Path) -> Any:
    try:
        settings = yaml.safe_load(config.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{config} cannot be read: {error}; choose another name=... or delete {config.parent}"
        ) from error
    return settings if isinstance(settings, dict) else {}


def _differences(old: Any, new: Any, key: str = "") -> dict[str, tuple[str, str]]:
    """Dotted key -> (old, new) as text, for every leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[str, str]] = {}
        for name in dict.fromkeys((*old, *new)):
            below = f"{key}.{name}" if key else str(name)
            found |= _differences(old.get(name, _ABSENT), new.get(name, _ABSENT), below)
        return found
    # By text, so that NaN equals itself and 1 differs from True and from 1.0.
    before, after = (value if value is _ABSENT else repr(value) for value in (old, new))
    return {} if before == after else {key: (before, after)}


def _may_change(key: str) -> bool:
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in MAY_CHANGE)
