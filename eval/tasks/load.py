"""The problems a ``task`` section names."""

from __future__ import annotations

from . import PROCEDURAL
from .local import load_file
from .problem import Problem, Split
from .settings import TaskSettings


def load_problems(task: TaskSettings, split: Split = "train", count: int | None = None) -> list[Problem]:
    """The first ``count`` problems of a split, taken from several families in turn.

    Families draw ``task.count`` problems if ``count`` is None. A file serves both splits as it is, whole if ``count``
    is None, and may hold fewer than ``count``: to keep training and test apart, name two files.
    Raises ``DataError`` for a file that cannot be used.
    """
    if task.file is not None:
        return load_file(task.file, task.columns, verifier=task.verifier)[:count]
    wanted = task.count if count is None else count
    families = [PROCEDURAL[name] for name in task.names]
    turns = ((families[index % len(families)], index // len(families)) for index in range(wanted))
    return [family.problem(split, task.seed, index) for family, index in turns]
