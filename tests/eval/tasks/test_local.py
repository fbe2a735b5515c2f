"""Local problem files: what is read, and what each mistake says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laconic.errors import ConfigError, DataError
from laconic.eval.tasks.local import load_file

ROWS: list[dict[str, Any]] = [
    {"question": "1+1?", "answer": 2, "id": "a", "level": 1},
    {"question": "{2}+2?", "answer": "4", "id": "b", "level": None},
]
COLUMNS = {"prompt": "question", "gold": "answer"}


def written(folder: Path, rows: list[Any], name: str = "mine.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_columns_are_mapped(tmp_path: Path) -> None:
    found = load_file(written(tmp_path, ROWS), COLUMNS, verifier="number")
    assert [(p.id, p.prompt, p.gold, p.level) for p in found] == [("a", "1+1?", "2", 1), ("b", "{2}+2?", "4", None)]
    assert {(p.source, p.verifier) for p in found} == {("mine", "number")}


def test_parquet_reads_like_jsonl(tmp_path: Path) -> None:
    rows = [{**row, "answer": str(row["answer"])} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mine.parquet")
    assert load_file(tmp_path / "mine.parquet", COLUMNS) == load_file(written(tmp_path, ROWS), COLUMNS)


def test_messages_and_missing_ids(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "Hi"}], "gold": "x"}, {"prompt": "Hi", "gold": "y"}]
    found = load_file(written(tmp_path, rows))
    assert found[0].prompt == ({"role": "user", "content": "Hi"},) and found[1].prompt == "Hi"
    assert [p.id for p in found] == ["mine/1", "mine/2"]


def test_line_separators_inside_a_text_do_not_split_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"prompt": "a\u2028b", "gold": "1"}, ensure_ascii=False) + "\n\n", encoding="utf-8")
    assert load_file(path)[0].prompt == "a\u2028b"


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([], {}, "holds no rows"),
        (ROWS, {}, "no column 'gold'.*'question', 'answer', 'id', 'level'.*task.columns.gold=<column> .--column gold="),
        (ROWS, {"gold": "answer"}, "neither a column 'prompt'.*'question'"),
        (ROWS, {**COLUMNS, "level": "hardness"}, "no column 'hardness' for 'level'"),
        ([*ROWS, {**ROWS[0], "id": "c", "answer": " "}], COLUMNS, "row 3: the gold answer .* is empty"),
        ([*ROWS, {"question": "x", "id": "c"}], COLUMNS, "row 3: the gold answer"),
        ([*ROWS, ROWS[0]], COLUMNS, "rows 1 and 3: the id 'a' occurs twice"),
        ([{**ROWS[0], "question": ""}], COLUMNS, "row 1: the prompt .* must be a text that is not empty"),
        ([{**ROWS[0], "level": "hard"}], COLUMNS, "row 1: the level 'hard'.*not a whole number"),
        ([[1, 2]], {}, "line 1 holds a list"),
        ([{"messages": [{"role": "user"}], "gold": "x"}], {}, "needs a 'role' and a text 'content'"),
        ([{"messages": 5, "gold": "x"}], {}, "needs a 'role' and a text 'content'"),
        ([{**ROWS[0], "level": float("inf")}], COLUMNS, "row 1: the level inf.*not a whole number"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: list[Any], columns: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_file(written(tmp_path, rows), columns)


@pytest.mark.parametrize("value", ["1" * 5000, "[" * 100_000], ids=["a number of 5,000 digits", "100,000 brackets"])
def test_lines_that_python_cannot_hold_are_named(tmp_path: Path, value: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(f'{{"prompt": "a", "gold": "b"}}\n{{"prompt": "a", "gold": {value}}}\n')
    with pytest.raises(DataError, match="line 2 is not valid JSON: .*mend or remove"):
        load_file(path)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file at .*none.jsonl"):
        load_file(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"'\.csv'; problems are read from"):
        load_file(written(tmp_path, ROWS, "mine.csv"))
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "gold": "b"}\n{"prompt": \n')
    with pytest.raises(DataError, match="line 2 is not valid JSON: .*mend or remove"):
        load_file(bad)
    bad.with_suffix(".parquet").write_bytes(b"no")
    with pytest.raises(DataError, match="not a Parquet file"):
        load_file(bad.with_suffix(".parquet"))
    bad.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match="not UTF-8"):
        load_file(bad)
    with pytest.raises(ConfigError, match="'golden'"):
        load_file(written(tmp_path, ROWS), {"golden": "answer"})
