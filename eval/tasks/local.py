"""Problems from a local JSONL or Parquet file, one per row.

Columns: ``prompt`` (text) or ``messages`` (list of role and content), ``gold``, and where there are ``id``, ``level``
and ``subject``. A mapping says where the file names them differently.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...errors import ConfigError, DataError
from .problem import Message, Problem

FIELDS = ("prompt", "messages", "gold", "id", "level", "subject")


MAP = "map one with task.columns.{name}=<column> (--column {name}=<column>)"
"""What to do about a missing column."""


def load_file(
    path: str | Path, columns: Mapping[str, str] | None = None, *, verifier: str = "exact", remedy: str = MAP
) -> list[Problem]:
    """All problems of a file.

    path: a ``.jsonl`` or ``.parquet`` file.
    columns: our field -> the file's column, for those that differ.
    verifier: id of the verifier that judges the answers.
    remedy: what to do about a missing column, ``{name}`` being our field.

    Raises ``ConfigError`` for an unknown field in ``columns`` and ``DataError`` for a missing file or column, a bad
    line, an empty gold or prompt, no rows, ids that occur twice. Rows are counted from 1.
    """
    path, columns = Path(path), dict(columns or {})
    for name in columns:
        if name not in FIELDS:
            raise ConfigError(f"task.columns maps {name!r}, not a field of a problem; fields: {', '.join(FIELDS)}")
    if not path.is_file():
        raise DataError(f"no file at {path}; give the path of a JSONL or Parquet file")
    rows = read_rows(path)
    if not rows:
        raise DataError(f"{path} holds no rows; it needs at least one problem")
    named = {name: columns.get(name, name) for name in FIELDS}
    _check_columns(path, rows[0][1], named, columns, remedy)
    problems = [_problem(path, number, row, named, verifier) for number, row in rows]
    seen: dict[str, int] = {}
    for (number, _), problem in zip(rows, problems, strict=True):
        if problem.id in seen:
            raise DataError(
                f"{path}, rows {seen[problem.id]} and {number}: the id {problem.id!r} occurs twice; make ids unique "
                "or map 'id' to another column"
            )
        seen[problem.id] = number
    return problems


def read_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(row number from 1, row) of every row; blank lines are skipped. Raises ``DataError`` as ``load_file`` does."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return list(enumerate(pq.read_table(path).to_pylist(), 1))
        except pa.ArrowInvalid as error:
            raise DataError(f"{path} is not a Parquet file: {error}; write it again, or give a .jsonl file") from error
    if path.suffix not in {".jsonl", ".ndjson", ".json"}:
        raise DataError(f"{path} ends in {path.suffix!r}; problems are read from .jsonl and .parquet files")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}; save it as UTF-8") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # the latter two of numbers and nests that Python cannot hold
            said = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise DataError(
                f"{path}, line {number} is not valid JSON: {said}; each line must be one whole JSON object; mend or "
                "remove this one"
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number} holds a {type(row).__name__}; each line must be a JSON object")
        rows.append((number, row))
    return rows


def _check_columns(path: Path, row: dict[str, Any], named: dict[str, str], mapped: Iterable[str], remedy: str) -> None:
    there = ", ".join(map(repr, row)) or "none"
    for name in {"gold", *mapped}:
        if named[name] not in row:
            raise DataError(
                f"{path} has no column {named[name]!r} for {name!r}; its columns are {there}; "
                f"{remedy.format(name=name)}"
            )
    if named["prompt"] not in row and named["messages"] not in row:
        raise DataError(
            f"{path} has neither a column {named['prompt']!r} for 'prompt' nor {named['messages']!r} for 'messages'; "
            f"its columns are {there}; {remedy.format(name='prompt')}"
        )


def _problem(path: Path, number: int, row: dict[str, Any], named: dict[str, str], verifier: str) -> Problem:
    where = f"{path}, row {number}"
    gold = row.get(named["gold"])
    gold_text = "" if gold is None else str(gold)
    if not gold_text.strip():
        raise DataError(f"{where}: the gold answer ({named['gold']!r}) is empty; fill it in or remove the row")
    level = row.get(named["level"])
    if level is not None:
        try:
            level = int(level)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{where}: the level {level!r} ({named['level']!r}) is not a whole number; "
                "map 'level' to another column"
            ) from error
    identity, subject = row.get(named["id"]), row.get(named["subject"])
    return Problem(
        id=f"{path.stem}/{number}" if identity is None else str(identity),
        prompt=_prompt(where, row, named),
        gold=gold_text,
        source=path.stem,
        level=level,
        verifier=verifier,
        subject=None if subject is None else str(subject),
    )


def _prompt(where: str, row: dict[str, Any], named: dict[str, str]) -> str | tuple[Message, ...]:
    messages = row.get(named["messages"])
    if messages:
        listed = messages if isinstance(messages, list) else [None]
        if not all(isinstance(m, Mapping) and isinstance(m.get("content"), str) and "role" in m for m in listed):
            raise DataError(f"{where}: every message of {named['messages']!r} needs a 'role' and a text 'content'")
        return tuple({"role": str(message["role"]), "content": message["content"]} for message in messages)
    prompt = row.get(named["prompt"])
    if not isinstance(prompt, str) or not prompt:
        raise DataError(f"{where}: the prompt ({named['prompt']!r}) is {prompt!r}; it must be a text that is not empty")
    return prompt
