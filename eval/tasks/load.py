"""The problems a ``task`` section names."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ...errors import ConfigError, DataError
from ...rewards.golds import GOLD_VERIFIER, MATHEMATICAL, unusable_golds
from ...rewards.pool import VerifierPool
from . import PROCEDURAL
from .benchmarks import BENCHMARKS
from .local import MAP, load_file, read_rows
from .named import load_named
from .overlap import find_overlaps
from .problem import Problem, Split
from .settings import TaskSettings

SHOWN = 5
"""Unusable golds that are named one by one."""
log = logging.getLogger(__name__)


def load_problems(task: TaskSettings, split: Split = "train", count: int | None = None) -> list[Problem]:
    """The problems of a split: families in turn, then named sets one after another, or the file.

    count: problems in all of the families, and at most so many of each named set: a fixed choice in which a smaller
        one is contained. None: ``task.count`` of the families, all of everything else. A file serves both splits as it
        is, its first rows: to keep training and test apart, name two files.

    For training, problems that a test set holds as well are left out (``task.held_out``), and the log says how many.
    Raises ``DataError`` for data that cannot be used, ``ConfigError`` for training on a test set.
    """
    if task.file is not None:
        problems = load_file(task.file, task.columns, verifier=task.verifier)[:count]
        if split == "train":
            problems = _without_held_out(task, problems, (), task.held_out or ())
        return [_asked(problem, task, bool(task.chat)) for problem in problems]
    wanted = task.count if count is None else count
    families = [PROCEDURAL[name] for name in task.names if name in PROCEDURAL]
    turns = ((families[index % len(families)], index // len(families)) for index in range(wanted if families else 0))
    problems = [family.problem(split, task.seed, index) for family, index in turns]
    names = [name for name in task.names if name in BENCHMARKS]
    if split == "train":
        _refuse_test_sets(names)
    found = [problem for name in names for problem in _some(bare_problems(name, task), count)]
    if split == "train" and found:
        check_ids([*problems, *found])
        partners = dict.fromkeys(BENCHMARKS[name].held_out for name in names)
        implied = [] if task.held_out is not None else [name for name in partners if name is not None]
        found = _without_held_out(task, found, implied, task.held_out or ())
    return problems + [_asked(problem, task, task.chat is not False) for problem in found]


def check_ids(problems: Iterable[Problem]) -> None:
    """Raise ``DataError`` for problems of several sources with one id: where problems go by their ids alone, answers
    to one would be judged against the gold of the other."""
    source: dict[str, str] = {}
    for problem in problems:
        other = source.setdefault(problem.id, problem.source)
        if other != problem.source:
            raise DataError(
                f"there is a problem {problem.id!r} of {other} and of {problem.source}; make the ids of one unique, "
                "or take its column 'id' away"
            )


def pool_verifiers(problems: Iterable[Problem]) -> list[str]:
    """What a verifier pool must be started with to judge answers to ``problems`` and to check their golds."""
    names = sorted({problem.verifier for problem in problems})
    return [*names, GOLD_VERIFIER] if set(names) & set(MATHEMATICAL) else names


def without_unusable(problems: Sequence[Problem], pool: VerifierPool) -> list[Problem]:
    """The problems whose golds their verifiers can judge against; the log names the others.

    pool: started with ``pool_verifiers(problems)``. Raises ``DataError`` if no problem is left.
    """
    faults: dict[int, str] = {}
    for verifier in dict.fromkeys(problem.verifier for problem in problems):
        mine = [index for index, problem in enumerate(problems) if problem.verifier == verifier]
        found = unusable_golds([problems[index].gold for index in mine], verifier, pool)
        faults |= {mine[index]: reason for index, reason in found.items()}
    for index, reason in sorted(faults.items())[:SHOWN]:
        problem = problems[index]
        log.warning("problem %s of %s is left out: verifier %s cannot judge against its gold %r (%s)", problem.id,
                    problem.source, problem.verifier, problem.gold[:80], reason)  # fmt: skip
    if len(faults) > SHOWN:
        log.warning("and %d more of %d problems, for the same reasons", len(faults) - SHOWN, len(problems))
    if len(faults) == len(problems):
        raise DataError("no problem has a gold that its verifier can judge against; give another task.verifier")
    return [problem for index, problem in enumerate(problems) if index not in faults]


def bare_problems(name: str, task: TaskSettings, remedy: str = MAP) -> list[Problem]:
    """A named set or a file, each problem's prompt being the bare text; ``task`` says where the files are.

    remedy: as of ``load_file``.
    """
    if name in BENCHMARKS:
        return load_named(BENCHMARKS[name], task.data_dir, task.files, task.verifier)
    if name in PROCEDURAL:
        raise ConfigError(f"{name} is drawn, train and test apart by construction; name a set or a file instead")
    return load_file(name, _local_columns(name, task), remedy=remedy)


def _local_columns(name: str, task: TaskSettings) -> dict[str, str]:
    """The mapping for a file beside the task's own: its mapping, else the usual names where it has them."""
    path = Path(name)
    if task.columns or not path.is_file():
        return dict(task.columns)
    rows = read_rows(path)
    there = rows[0][1] if rows else {}
    usual = (("prompt", "question"), ("prompt", "problem"), ("gold", "answer"))
    return {field: column for field, column in usual if field not in there and column in there}


def _asked(problem: Problem, task: TaskSettings, chat: bool) -> Problem:
    """The problem as it is put to the model: in the set's template unless the task has one, as text or as a message."""
    text = problem.prompt
    if not isinstance(text, str):
        return problem
    named = BENCHMARKS.get(problem.source) if task.file is None else None
    if named is not None and task.template is None:
        # Not str.format: LaTeX is full of braces.
        text = named.template.replace("{prompt}", text)
    return replace(problem, prompt=({"role": "user", "content": text},) if chat else text)


def _some(problems: Sequence[Problem], count: int | None) -> Sequence[Problem]:
    """``count`` problems that depend on their ids only, in the order of the data: the first may all be easy ones."""
    if count is None or count >= len(problems):
        return problems
    drawn = sorted(range(len(problems)), key=lambda index: hashlib.blake2b(problems[index].id.encode()).digest())
    return [problems[index] for index in sorted(drawn[:count])]


def _refuse_test_sets(names: Iterable[str]) -> None:
    tests = [name for name in names if BENCHMARKS[name].role == "test"]
    if tests:
        training = ", ".join(name for name, row in BENCHMARKS.items() if row.role == "train")
        raise ConfigError(
            f"task.names holds {tests[0]!r}, a test set; a model trained on it can no longer be measured with it; "
            f"train on {training} or a file of your own (task.file)"
        )


def _without_held_out(
    task: TaskSettings, problems: list[Problem], implied: Sequence[str], named: Sequence[str]
) -> list[Problem]:
    """The problems that no held-out set holds. A set that is only ``implied`` and out of reach is not compared."""
    for name in (*named, *implied):
        try:
            test = bare_problems(name, task)
        except DataError as error:
            if name in named:
                raise
            log.warning("training problems were not compared with %s: %s", name, error)
            continue
        doubled = {overlap.train_id for overlap in find_overlaps(problems, test)}
        if doubled:
            log.warning(
                "%d of %d training problems are left out: %s holds them too, or nearly; laconic tasks --overlap lists "
                "them", len(doubled), len(problems), name,
            )  # fmt: skip
            problems = [problem for problem in problems if problem.id not in doubled]
    if not problems:
        raise DataError(f"no training problem is left beside {', '.join((*named, *implied))}; give other training data")
    return problems
