r"""Problems of a named set: from a file of the user's, or from the Hub.

    rows ── columns of the set, or id/problem/answer/level/subject ──> Problem with the bare text as its prompt

The answer of a row is what stands after ``####``, else in its last ``\boxed{}``, else the whole text. The options of a
multiple-choice question are put into an order drawn from the hash of the question's id, the same for every model.
"""

from __future__ import annotations

import hashlib
import logging
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import DataError
from .benchmarks import WRONG_OPTIONS, Benchmark
from .local import read_rows
from .problem import Problem

LETTERS = "ABCD"
ENDINGS = (".jsonl", ".ndjson", ".parquet", ".json")
_Row = tuple[int | None, int, dict[str, Any]]
"""(number of the Hub's configuration, row number, row)."""
log = logging.getLogger(__name__)


def load_named(
    benchmark: Benchmark, data_dir: str | None = None, files: Mapping[str, str] | None = None, verifier: str = "auto"
) -> list[Problem]:
    """The problems of ``benchmark``, the prompt of each being its bare text, in the order of the data.

    files: name of a set -> its file; comes first.
    data_dir: folder that is searched for ``<stem>.jsonl``, ``<name>.parquet`` and so on; what is not there comes from
        the Hub.
    verifier: another than the set's own.

    Rows without an answer are dropped, and the log says how many. Raises ``DataError`` for a file or data set that
    cannot be read, a missing column, ids that occur twice.
    """
    path = local_file(benchmark, data_dir, files)
    rows: list[_Row] = []
    if path is None:
        rows += _from_hub(benchmark, data_dir)
    else:
        rows += [(None, number, row) for number, row in read_rows(path)]
    where = str(path) if path is not None else benchmark.hub
    if not rows:
        raise DataError(f"{where} holds no problems of {benchmark.name}; give another file (task.files)")
    _check_columns(benchmark, where, rows[0][2])
    found = [_problem(benchmark, where, *row) for row in rows]
    problems = [problem for problem in found if problem is not None]
    if len(problems) < len(rows):
        log.warning("%s: %d of %d rows of %s have no answer and are left out", where, len(rows) - len(problems),
                    len(rows), benchmark.name)  # fmt: skip
    if repeated := [name for name, times in Counter(problem.id for problem in problems).items() if times > 1]:
        raise DataError(
            f"{where} repeats ids of {benchmark.name} ({repeated[0]!r}, {len(repeated)} in all); make them unique, or "
            f"take the column {_column(rows[0][2], benchmark.id, 'id')!r} away"
        )
    return problems if verifier == "auto" else [replace(problem, verifier=verifier) for problem in problems]


def local_file(benchmark: Benchmark, data_dir: str | None, files: Mapping[str, str] | None = None) -> Path | None:
    """The user's file of ``benchmark``, if there is one. Raises ``DataError`` for a named file or folder that is not
    there."""
    if files and benchmark.name in files:
        path = Path(files[benchmark.name])
        if not path.is_file():
            raise DataError(f"no file at {path}, which task.files gives for {benchmark.name}; correct the path")
        return path
    if data_dir is None:
        return None
    folder = Path(data_dir)
    if not folder.is_dir():
        raise DataError(
            f"no folder at {folder}; task.data_dir (--data-dir) is a folder with files such as math500.jsonl"
        )
    stems = dict.fromkeys((benchmark.stem, benchmark.name))
    candidates = (folder / f"{stem}{ending}" for stem in stems for ending in ENDINGS)
    return next((path for path in candidates if path.is_file()), None)


def final_answer(text: str) -> str:
    r"""What a solution ends in: after the last ``####``, else in the last ``\boxed{}``, else all of it; without ``$``.

    A thousands comma after ``####`` is dropped, as GSM8K writes them.
    """
    if "####" in text:
        return text.rpartition("####")[2].strip().replace(",", "")
    boxed = last_box(text)
    text = text if boxed is None else boxed
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == "$" and "$" not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def last_box(text: str) -> str | None:
    r"""Content of the last ``\boxed{...}`` or ``\boxed x``; None without one, or if its braces never close."""
    starts = list(_BOX.finditer(text))
    if not starts:
        return None
    rest = text[starts[-1].end() :]
    if not rest.startswith("{"):
        return re.split(r"[\s$]", rest.lstrip(), maxsplit=1)[0] or None
    depth = 0
    for brace in _BRACE.finditer(rest):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return rest[1 : brace.start()]
    return None


_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=[^\sA-Za-z])|\\(?:boxed|fbox)\s+(?=\S)")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def options_order(identity: str, count: int = len(LETTERS), permutation: int = 0) -> tuple[int, ...]:
    """The order in which options are shown: ``order[i]`` is the option at letter i; option 0 is the right one.

    Drawn from the hash of the question's id, so it depends on no other question and no random state.
    """
    order = list(range(count))
    random.Random(hashlib.blake2b(f"{identity}/{permutation}".encode(), digest_size=8).hexdigest()).shuffle(order)
    return tuple(order)


def _from_hub(benchmark: Benchmark, data_dir: str | None) -> list[_Row]:
    from datasets import load_dataset

    rows: list[_Row] = []
    for level, config in enumerate(benchmark.configs, 1):
        try:
            data: Any = load_dataset(benchmark.hub, config, split=benchmark.split)
        # The Hub's client raises dozens of classes: offline, gated, moved, a split renamed, a broken download.
        except Exception as error:
            beside = f"{data_dir} has no {benchmark.stem}.jsonl, and " if data_dir else ""
            gate = " (it asks for a login: hf auth login)" if benchmark.gated else ""
            raise DataError(
                f"{beside}{benchmark.name} cannot be loaded from the Hub as {benchmark.hub}{gate}: "
                f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason'}; "
                f"without a network, put {benchmark.stem}.jsonl (columns id, problem, answer) into a folder and give "
                "task.data_dir=FOLDER (--data-dir FOLDER)"
            ) from error
        rows += [(level, number, row) for number, row in enumerate(data, len(rows) + 1)]
    return rows


def _column(row: Mapping[str, Any], *names: str | None) -> str | None:
    return next((name for name in names if name is not None and name in row), None)


def _value(row: Mapping[str, Any], *names: str | None) -> Any:
    """The first of the columns that there is; None without one."""
    name = _column(row, *names)
    return None if name is None else row[name]


def _check_columns(benchmark: Benchmark, where: str, row: Mapping[str, Any]) -> None:
    wanted = {"problem": benchmark.problem, "answer": benchmark.answer}
    if benchmark.style == "choice":
        wanted |= {name: name for name in WRONG_OPTIONS}
    for plain, name in wanted.items():
        if _column(row, name, plain) is None:
            there = ", ".join(map(repr, row)) or "none"
            either = f"{name!r}" if name == plain else f"{name!r} nor {plain!r}"
            raise DataError(
                f"{where} has no column {either} of {benchmark.name}; its columns are {there}; rename one, or load it "
                "as a file of your own (task.file with task.columns)"
            )


def _problem(
    benchmark: Benchmark, where: str, config: int | None, number: int, row: Mapping[str, Any]
) -> Problem | None:
    """The problem of a row; None without an answer."""
    text = _value(row, benchmark.problem, "problem")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}, row {number}: the problem is {text!r}; it must be a text that is not empty")
    answer = _answer(_value(row, benchmark.answer, "answer"))
    if not answer:
        return None
    known = _value(row, benchmark.id, "id")
    identity = f"{benchmark.name}/{number:05d}" if known is None else str(known)
    order: tuple[int, ...] | None = None
    if benchmark.style == "choice":
        order = options_order(identity)
        wrong = [str(row.get(column) or "").strip() for column in WRONG_OPTIONS]
        if not all(wrong):
            raise DataError(f"{where}, row {number}: a wrong option is empty; fill in {', '.join(WRONG_OPTIONS)}")
        options = [answer, *wrong]
        shown = (f"{letter}) {options[index]}" for letter, index in zip(LETTERS, order, strict=True))
        text = "\n".join((text.strip(), "", *shown))
        answer = LETTERS[order.index(0)]
    subject = _value(row, benchmark.subject, "subject")
    return Problem(
        id=identity,
        prompt=text,
        gold=answer,
        source=benchmark.name,
        level=_level(benchmark, config, row),
        verifier=benchmark.verifier,
        subject=None if subject is None else str(subject),
        options=order,
    )


def _answer(value: Any) -> str:
    """The gold of a row: the last of several joined by commas, a whole number without ``.0`` and leading zeros."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(filter(None, (_answer(item) for item in value)))
    text = "" if value is None else final_answer(str(value))
    return str(int(text)) if re.fullmatch(r"0\d+", text) else text


def _level(benchmark: Benchmark, config: int | None, row: Mapping[str, Any]) -> int | None:
    if benchmark.level == "#" and config is not None:
        return config
    digits = re.search(r"\d+", str(_value(row, benchmark.level, "level")))
    return int(digits.group()) if digits else None
