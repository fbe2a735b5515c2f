"""Which problems a run trains on or is evaluated on: the ``task`` section."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...errors import ConfigError
from . import PROCEDURAL
from .benchmarks import BENCHMARKS
from .local import FIELDS

AUTO = "auto"
KNOWN = (*PROCEDURAL, *BENCHMARKS)


@dataclass(frozen=True)
class TaskSettings:
    """Problems by ``names`` (procedural families, named sets), or a local ``file``."""

    names: tuple[str, ...] = tuple(PROCEDURAL)
    """Procedural families, interleaved, and sets that ``laconic tasks`` lists; unused when ``file`` is given."""
    seed: int = 0
    """Of the procedural problems."""
    count: int = 4096
    """Procedural problems drawn for training."""
    data_dir: str | None = None
    """Folder with files of named sets (``math500.jsonl``); what is not there is loaded from the Hub."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Name of a set -> its local file."""
    file: str | None = None
    """A JSONL or Parquet file with one problem per row."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Where the file differs: our field (``prompt``, ``messages``, ``gold``, ``id``, ``level``) -> its column."""
    template: str | None = None
    """Text around each prompt, with ``{prompt}`` in it; named sets have one of their own."""
    chat: bool | None = None
    """Ask through the model's chat template; null does for named sets, and takes the text of a file as it is."""
    verifier: str = AUTO
    """Judges the answers; ``auto`` takes that of a named set, and ``exact`` for a file."""
    held_out: tuple[str, ...] | None = None
    """Test sets (names or files) whose problems are left out of the training set; null: the one a set belongs to."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in KNOWN]
        if unknown and not self.file:
            raise ConfigError(
                f"task.names holds {unknown[0]!r}{nearest(unknown[0])}; known: {', '.join(KNOWN)}; or give task.file"
            )
        if not self.names and not self.file:
            raise ConfigError(f"task.names is empty; name one of {', '.join(KNOWN)} or give task.file")
        foreign = [name for name in self.files if name not in BENCHMARKS]
        if foreign:
            raise ConfigError(f"task.files names {foreign[0]!r}{nearest(foreign[0])}; known: {', '.join(BENCHMARKS)}")
        foreign = [field for field in self.columns if field not in FIELDS]
        if foreign:
            raise ConfigError(
                f"task.columns maps {foreign[0]!r}, which is no field of a problem; fields: {', '.join(FIELDS)}"
            )
        if self.count < 1:
            raise ConfigError(f"task.count is {self.count}; it needs at least 1 problem")
        if self.template is not None and "{prompt}" not in self.template:
            raise ConfigError(f"task.template {self.template!r} lacks {{prompt}}, so every problem would read the same")
        if self.file and self.verifier == AUTO:
            object.__setattr__(self, "verifier", "exact")

    @property
    def procedural(self) -> bool:
        """Whether problems can be drawn without end, so that somebody has to say how many."""
        return self.file is None and any(name in PROCEDURAL for name in self.names)


def chosen_tasks(
    chosen: Sequence[str], default: TaskSettings, *, verifier: str | None = None
) -> tuple[TaskSettings, ...]:
    """A task section for each kind of thing that ``--task`` names: families together, named sets together, files.

    default: what they inherit; if nothing is chosen it is taken itself, a training set as its test set.
    verifier: the user's choice; without one, named sets keep their own whatever ``default`` says.

    Raises ``ConfigError`` for a word that is neither a known name nor looks like a path.
    """
    if not chosen:
        return (_as_test(default),)
    families = tuple(name for name in chosen if name in PROCEDURAL)
    named = tuple(name for name in chosen if name in BENCHMARKS)
    files = [name for name in chosen if name not in KNOWN]
    unknown = [name for name in files if "." not in name and "/" not in name]
    if unknown:
        raise ConfigError(
            f"unknown task {unknown[0]!r}{nearest(unknown[0])}; give one of {', '.join(KNOWN)}, or a .jsonl or "
            ".parquet file"
        )
    parts = [replace(default, names=families, file=None)] if families else []
    if named:
        parts.append(replace(default, names=named, file=None, verifier=verifier or AUTO))
    return (*parts, *(replace(default, file=file) for file in files))


def _as_test(task: TaskSettings) -> TaskSettings:
    """What a run on ``task`` is evaluated on: the test set that belongs to each training set."""
    if task.file is not None or not any(name in BENCHMARKS for name in task.names):
        return task
    partners = (BENCHMARKS[name].held_out if name in BENCHMARKS else None for name in task.names)
    names = dict.fromkeys(partner or name for name, partner in zip(task.names, partners, strict=True))
    return replace(task, names=tuple(names), verifier=AUTO)


def nearest(name: str) -> str:
    """``; did you mean 'math500'?`` for a name that is close to a known one, else nothing."""
    close = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.7)
    return f"; did you mean {close[0]!r}?" if close else ""
