"""`laconic grade`: a line for a line, in order, and an error for a line that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laconic.cli import main
from laconic.errors import ConfigError, DataError
from laconic.rewards.grade import grade_file

ROWS: list[dict[str, Any]] = [
    {"gold": "1/2", "response": r"<think>a</think>\boxed{0.5}"},
    {"gold": 42, "response": "42", "verifier": "exact"},
    {"gold": "4", "response": r"<think>a</think>\boxed{5}", "truncated": False},
    {"gold": "4", "response": r"<think>a</think>\boxed{4}", "truncated": True},
    {"gold": "4", "response": "<think>a</think> Answer: 4"},
]
STRICT = ["right", "right", "wrong", "truncated", "unreadable"]


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_line_gets_its_verdict_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "cases.jsonl", [json.dumps(row) for row in ROWS])
    grade_file(file, as_json=True)
    lines = printed(capsys)
    assert [line["verdict"] for line in lines] == STRICT
    assert all(set(line) == {"verdict", "extracted", "reason"} for line in lines)
    assert (lines[2]["extracted"], lines[2]["reason"], lines[4]["reason"]) == ("5", "mismatch", "no_box")


def test_the_eval_policy_also_takes_answers_without_a_box(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "cases.jsonl", [json.dumps(row) for row in ROWS])
    grade_file(file, policy="eval", as_json=True)
    assert [line["verdict"] for line in printed(capsys)] == [*STRICT[:4], "right"]


def test_parquet_gives_the_same_as_jsonl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pa.Table.from_pylist(
        [{"truncated": None, "verifier": None, **row, "gold": str(row["gold"])} for row in ROWS]
    )
    pq.write_table(table, tmp_path / "cases.parquet")
    grade_file(tmp_path / "cases.parquet", as_json=True)
    assert [line["verdict"] for line in printed(capsys)] == STRICT


def test_bad_lines_are_named_and_the_rest_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = json.dumps({"gold": "7", "response": "7", "verifier": "exact"})
    lines = [good, "not json", '{"gold": "7"}', '{"gold": "", "response": "7"}', "[]", "", good]
    lines += ['{"gold": "7", "response": "7", "verifier": "none"}', '{"gold": "7", "response": "7", "truncated": 1}']
    file = write(tmp_path / "cases.jsonl", lines)
    with pytest.raises(SystemExit) as ending:
        main(["grade", str(file), "--verifier", "exact", "--json"])
    output = capsys.readouterr()
    results = [json.loads(line) for line in output.out.splitlines()]
    assert ending.value.code == 1
    assert [result.get("verdict") for result in results] == ["right", None, None, None, None, "right", None, None]
    assert [result["error"].split(":")[0] for result in results if "error" in result] == [
        f"cases.jsonl line {number}" for number in (2, 3, 4, 5, 8, 9)
    ]
    assert "cases.jsonl line 9: truncated is 1" in output.err


def grade_by_hand(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[Any, list[dict[str, Any]], str]:
    """``(exit status, lines, messages)`` of the command."""
    with pytest.raises(SystemExit) as ending:
        main(["grade", *arguments, "--json"])
    output = capsys.readouterr()
    return ending.value.code or 0, [json.loads(line) for line in output.out.splitlines()], output.err


def test_line_1207_is_named_and_the_2499_others_are_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"gold": "7", "response": str(7 + number % 2)}) for number in range(2500)]
    lines[1206] = '{"gold": "7", "response": "7"'
    status, results, messages = grade_by_hand(
        capsys, str(write(tmp_path / "cases.jsonl", lines)), "--verifier", "exact"
    )
    assert status == 1
    assert results[1206]["error"].startswith("cases.jsonl line 1207: not JSON")
    assert "error: cases.jsonl line 1207: not JSON" in messages
    others = [result.get("verdict") for result in results]
    assert others == [None if number == 1206 else ("right", "wrong")[number % 2] for number in range(2500)]


def test_missing_columns_end_the_command_with_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"gold": ["7"], "answer": ["7"]}), tmp_path / "cases.parquet")
    status, results, messages = grade_by_hand(capsys, str(tmp_path / "cases.parquet"))
    assert status != 0 and results == []
    assert "cases.parquet lacks the columns response; it has gold, answer" in " ".join(messages.split())
    file = write(tmp_path / "cases.jsonl", ['{"answer": "7", "response": "7"}'])
    status, results, messages = grade_by_hand(capsys, str(file))
    assert status == 1 and "line 1: gold is missing" in results[0]["error"] and "gold is missing" in messages


def test_an_answer_to_a_gold_that_cannot_be_read_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"gold": r"\frac{1}{", "response": r"\boxed{\frac{1}{2}}"},
        {"gold": "4", "response": r"\boxed{5}"},
        {"gold": r"\sqrt{2}", "response": r"\boxed{\sqrt{3}}"},
        {"gold": "9^{9^{9^{9}}}", "response": r"\boxed{4}"},
        {"gold": "seven", "response": "7", "verifier": "number"},
        {"gold": "7", "response": "B", "verifier": "choice"},
    ]
    file = write(tmp_path / "cases.jsonl", [json.dumps(row) for row in rows[:4]])
    status, results, messages = grade_by_hand(capsys, str(file), "--policy", "eval")
    assert status == 0
    assert [result["verdict"] for result in results] == ["wrong"] * 4
    assert [result["reason"] for result in results] == ["gold_unparsed", "mismatch", "mismatch", "gold_too_large"]
    assert "cases.jsonl line 1: gold" in messages and "cannot be read (unparsed)" in messages
    assert "line 4" in messages and "line 2" not in messages
    file = write(tmp_path / "cases.jsonl", [json.dumps(row) for row in rows[4:]])
    status, results, _ = grade_by_hand(capsys, str(file))
    assert status == 1
    assert results[0]["error"].endswith("line 1: the verifier number cannot read the gold 'seven' (no_number)")
    assert results[1]["error"].endswith("line 2: the verifier choice cannot read the gold '7' (no_letter)")


def test_ids_and_other_columns_are_passed_over_so_that_they_may_repeat(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "cases.jsonl", ['{"id": "a", "sample": 1, "gold": "7", "response": "7"}'] * 2)
    status, results, _ = grade_by_hand(capsys, str(file), "--verifier", "exact")
    assert (status, [result["verdict"] for result in results]) == (0, ["right", "right"])


def test_without_json_a_table_of_counts_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"gold": "7", "response": "8", "verifier": "exact"}
    tally = grade_file(write(tmp_path / "cases.jsonl", [json.dumps(row)] * 3), verifier="exact")
    assert tally.verdicts == {"wrong": 3} and tally.reasons == {"mismatch": 3}
    assert "3 judged" in capsys.readouterr().out


def test_wrong_usage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown policy 'soft'; known: strict, eval"):
        grade_file(tmp_path / "cases.jsonl", policy="soft")
    with pytest.raises(ConfigError, match="unknown verifier 'none'"):
        grade_file(tmp_path / "cases.jsonl", verifier="none")
    with pytest.raises(DataError, match="no file"):
        grade_file(tmp_path / "cases.jsonl")
    pq.write_table(pa.table({"gold": ["7"], "answer": ["7"]}), tmp_path / "cases.parquet")
    with pytest.raises(DataError, match="lacks the columns response; it has gold, answer"):
        grade_file(tmp_path / "cases.parquet")
