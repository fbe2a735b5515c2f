"""`laconic tasks`: the list, and what two sets have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from laconic.cli import app
from laconic.eval.power import least_difference
from laconic.eval.tasks.benchmarks import BENCHMARKS


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["tasks", *arguments])


def test_every_named_set_is_listed_with_what_it_certifies(data_dir: Path) -> None:
    rows = {row["name"]: row for row in json.loads(run("--json", "--data-dir", str(data_dir)).stdout)}
    assert set(rows) == {"chain", "search", *BENCHMARKS}
    assert rows["math500"]["certifies"] == least_difference(500, 4, within=0.05)
    assert rows["olympiadbench"]["certifies"] == least_difference(674, 4) and rows["olympiadbench"]["size"] == 675
    assert rows["minerva"]["local"] is None and rows["math_train"]["certifies"] is None
    more = {row["name"]: row for row in json.loads(run("--json", "-k", "64").stdout)}
    assert more["aime24"]["certifies"] == least_difference(30, 64)
    assert run("-k", "0").exit_code == 2


def test_the_table_fits_80_columns_and_says_what_is_assumed() -> None:
    answer = run()
    assert answer.exit_code == 0 and max(map(len, answer.output.splitlines())) <= 80
    (line,) = [line for line in answer.output.splitlines() if line.startswith("aime24")]
    assert line.split()[:6] == ["aime24", "test", "30", "32", "6.5", "pt"]
    assert "2.80 sqrt((sd^2 + 2w/k)/n)" in answer.output and "sd = 0.1" in answer.output


def test_the_table_with_the_files_of_a_folder_is_whole_in_80_columns(data_dir: Path) -> None:
    lines = run("--data-dir", str(data_dir)).output.splitlines()
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
    assert lines[0].split() == ["task", "for", "problems", "here", "k", "certifies", "levels", "licence"]


def test_overlaps_are_listed_and_make_the_command_fail(tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "empty.jsonl").write_text('{"prompt": "nothing of the kind", "gold": "1"}\n')
    first = (data_dir / "math500.jsonl").read_text(encoding="utf-8").splitlines()[0]
    (tmp_path / "mine.jsonl").write_text(first + "\n")
    folder = ("--data-dir", str(data_dir))
    answer = run("--overlap", str(tmp_path / "empty.jsonl"), "math500", *folder)
    assert answer.exit_code == 0 and "0 of 1 problems" in answer.output
    answer = run("--overlap", str(tmp_path / "mine.jsonl"), "math500", *folder, "--json")
    report = json.loads(answer.stdout)
    assert answer.exit_code == 1 and (report["exact"], report["near"], report["sizes"]) == (1, 0, [1, 500])
    assert report["pairs"][0]["test_id"] == json.loads(first)["id"]
    asked = {"question": json.loads(first)["problem"], "answer": "1"}
    (tmp_path / "asked.jsonl").write_text(json.dumps(asked) + "\n")
    assert (
        json.loads(run("--overlap", str(tmp_path / "asked.jsonl"), "math500", *folder, "--json").stdout)["exact"] == 1
    )
    (tmp_path / "other.jsonl").write_text('{"q": "1+1", "answer": "2"}\n')
    wrong = run("--overlap", str(tmp_path / "other.jsonl"), "math500", *folder)
    assert "rename one to 'prompt'" in wrong.stderr and "--column" not in wrong.stderr
    assert run("--overlap", "chain", "math500").exit_code == 2
