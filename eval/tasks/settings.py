"""Which problems a run trains on or is evaluated on: the ``task`` section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...errors import ConfigError
from . import PROCEDURAL
from .local import FIELDS


@dataclass(frozen=True)
class TaskSettings:
    """Procedural problems by ``names``, or a local ``file``."""

    names: tuple[str, ...] = tuple(PROCEDURAL)
    """Procedural families, interleaved; without effect when ``file`` is given."""
    seed: int = 0
    """Of the procedural problems."""
    count: int = 4096
    """Procedural problems drawn for training."""
    file: str | None = None
    """A JSONL or Parquet file with one problem per row."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Where the file differs: our field (``prompt``, ``messages``, ``gold``, ``id``, ``level``) -> its column."""
    template: str | None = None
    """Text around each prompt, with ``{prompt}`` in it."""
    verifier: str = "exact"
    """Judges the answers to the file's problems."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in PROCEDURAL]
        if unknown and not self.file:
            raise ConfigError(f"task.names holds {unknown[0]!r}; known: {', '.join(PROCEDURAL)}; or give task.file")
        if not self.names and not self.file:
            raise ConfigError(f"task.names is empty; name one of {', '.join(PROCEDURAL)} or give task.file")
        foreign = [field for field in self.columns if field not in FIELDS]
        if foreign:
            raise ConfigError(
                f"task.columns maps {foreign[0]!r}, which is no field of a problem; fields: {', '.join(FIELDS)}"
            )
        if self.count < 1:
            raise ConfigError(f"task.count is {self.count}; it needs at least 1 problem")
        if self.template is not None and "{prompt}" not in self.template:
            raise ConfigError(f"task.template {self.template!r} lacks {{prompt}}, so every problem would read the same")
