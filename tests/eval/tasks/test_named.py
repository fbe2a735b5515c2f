"""Named sets: what is read from files and data sets, how it is asked, and what each mistake says."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laconic.errors import ConfigError, DataError
from laconic.eval.tasks.benchmarks import BENCHMARKS, WRONG_OPTIONS
from laconic.eval.tasks.load import load_problems, without_unusable
from laconic.eval.tasks.named import final_answer, load_named, options_order
from laconic.eval.tasks.problem import Problem
from laconic.eval.tasks.settings import TaskSettings, chosen_tasks
from laconic.rewards.verdict import Item, Judgement, Verdict

SHIPPED = {
    "gsm8k": 1319, "math500": 500, "aime24": 30, "aime25": 30, "amc23": 40, "olympiadbench": 674, "olymmath": 200,
    "gsm8k_train": 7473, "math_train": 7436,
}  # fmt: skip
GPQA = [
    {
        "Record ID": f"rec{n}",
        "Question": f"Which one is {n}?",
        "Correct Answer": f"{n}\n",
        "High-level domain": "Physics",
    }
    | {column: f"{n}{letter}" for column, letter in zip(WRONG_OPTIONS, "xyz", strict=True)}
    for n in range(200)
]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_names_of_the_common_benchmarks_are_known() -> None:
    tests = {name for name, row in BENCHMARKS.items() if row.role == "test"}
    assert tests == {
        "gsm8k", "math", "math500", "aime24", "aime25", "amc23", "olympiadbench", "olymmath", "minerva", "gpqa_diamond",
    }  # fmt: skip
    assert {row.held_out for row in BENCHMARKS.values() if row.role == "train"} == {"gsm8k", "math500"}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_row_of_a_data_folder_is_read(name: str, data_dir: Path) -> None:
    found = load_named(BENCHMARKS[name], str(data_dir))
    assert len(found) == SHIPPED[name] and {problem.source for problem in found} == {name}
    assert all(problem.gold and isinstance(problem.prompt, str) for problem in found)


def test_levels_subjects_and_golds_are_those_of_the_rows(data_dir: Path) -> None:
    math = load_named(BENCHMARKS["math500"], str(data_dir))
    assert Counter(p.level for p in math) == {1: 43, 2: 90, 3: 105, 4: 128, 5: 134}
    assert len({p.subject for p in math}) == 7
    assert math[0].gold == "\\left( 3, \\frac{\\pi}{2} \\right)" and math[0].subject == "Precalculus"
    assert Counter(p.level for p in load_named(BENCHMARKS["olymmath"], str(data_dir))) == {1: 100, 2: 100}


def test_the_instruction_stands_in_the_users_turn_and_another_template_replaces_it(data_dir: Path) -> None:
    task = TaskSettings(names=("aime24",), data_dir=str(data_dir))
    (bare, *_), (asked, *_) = load_named(BENCHMARKS["aime24"], str(data_dir)), load_problems(task, "test")
    wanted = f"{bare.prompt}\nPlease reason step by step, and put your final answer within \\boxed{{}}."
    assert asked.prompt == ({"role": "user", "content": wanted},) and asked.verifier == "math_eval"
    assert load_problems(replace(task, chat=False), "test")[0].prompt == wanted
    own = replace(task, template="Q: {prompt} A:", verifier="number")
    assert load_problems(own, "test")[0] == replace(
        bare, prompt=({"role": "user", "content": bare.prompt},), verifier="number"
    )


def test_a_smaller_choice_is_contained_in_a_larger_one_and_not_only_the_first(data_dir: Path) -> None:
    task = TaskSettings(names=("olymmath",), data_dir=str(data_dir))
    few, more = (load_problems(task, "test", count) for count in (40, 80))
    assert len(few) == 40 and {p.id for p in few} < {p.id for p in more}
    assert {p.level for p in few} == {1, 2}
    assert few == [p for p in more if p in few]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("48/2 = <<48/2=24>>24\n#### 1,024", "1024"),
        ("so $\\boxed{\\frac{1}{2}}$, not 3", "\\frac{1}{2}"),
        ("thus $x=\\boxed{\\{1, 2\\}}.$", "\\{1, 2\\}"),
        ("it is $\\boxed 7$ then", "7"),
        ("\\boxed{1} and \\fbox{2}", "2"),
        ("$\\pi$", "\\pi"),
        (" 5 ", "5"),
    ],
)
def test_the_answer_of_a_solution_is_its_last_marked_one(text: str, answer: str) -> None:
    assert final_answer(text) == answer


def test_columns_of_the_hub_are_read_through_datasets(tmp_path: Path) -> None:
    rows = [
        {"problem": f"p{n}", "solution": f"so \\boxed{{{n}}}.", "level": f"Level {n or '?'}", "type": "Algebra"}
        for n in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test-0.parquet")
    hub = replace(BENCHMARKS["math"], hub=str(tmp_path), configs=(None,))
    found = load_named(hub)
    assert [(p.id, p.gold, p.level, p.subject) for p in found] == [
        ("math/00001", "0", None, "Algebra"), ("math/00002", "1", 1, "Algebra"), ("math/00003", "2", 2, "Algebra"),
    ]  # fmt: skip


def test_numbers_of_the_hub_become_plain_ones(tmp_path: Path) -> None:
    rows = [{"problem": "a", "answer": 27.0, "id": 3}, {"problem": "b", "answer": "073", "id": 4}]
    path = written(tmp_path / "amc23.jsonl", rows)
    assert [(p.id, p.gold) for p in load_named(BENCHMARKS["amc23"], None, {"amc23": str(path)})] == [
        ("3", "27"),
        ("4", "73"),
    ]


def test_options_are_shuffled_by_the_id_alone_and_letters_follow(tmp_path: Path) -> None:
    written(tmp_path / "gpqa_diamond.jsonl", GPQA)
    found = load_named(BENCHMARKS["gpqa_diamond"], str(tmp_path))
    again = load_named(
        BENCHMARKS["gpqa_diamond"], None, {"gpqa_diamond": str(written(tmp_path / "r.jsonl", GPQA[::-1]))}
    )
    assert {p.id: p for p in found} == {p.id: p for p in again}
    for problem, row in zip(found, GPQA, strict=True):
        assert f"\n{problem.gold}) {row['Correct Answer'].strip()}" in str(problem.prompt)
        assert problem.options == options_order(problem.id) and "ABCD"[problem.options.index(0)] == problem.gold
    letters = Counter(p.gold for p in found)
    assert set(letters) == set("ABCD") and min(letters.values()) > 30
    (asked, *_) = load_problems(TaskSettings(names=("gpqa_diamond",), data_dir=str(tmp_path)), "test")
    assert "'Answer: X'" in asked.prompt[0]["content"] and asked.verifier == "choice"


def test_a_set_that_is_nowhere_names_the_hub_and_the_local_alternative(tmp_path: Path, monkeypatch: Any) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setattr("datasets.load_dataset", offline)
    with pytest.raises(
        DataError,
        match=r"Idavidrein/gpqa \(it asks for a login.*ConnectionError: no route to host;.*gpqa_diamond\.jsonl",
    ):
        load_named(BENCHMARKS["gpqa_diamond"], str(tmp_path))
    with pytest.raises(DataError, match="no folder at"):
        load_named(BENCHMARKS["aime24"], str(tmp_path / "none"))
    with pytest.raises(DataError, match="no file at .*task.files"):
        load_named(BENCHMARKS["aime24"], None, {"aime24": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no problems"),
        ([{"question": "x", "answer": "1"}], "no column 'problem' of math500; its columns are 'question', 'answer'"),
        ([{"problem": "x"}], "no column 'answer'"),
        ([{"problem": " ", "answer": "1"}], "row 1: the problem is ' '"),
        ([{"problem": "x", "answer": "1", "id": "a"}] * 2, "repeats ids of math500 \\('a', 1 in all\\)"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path: Path, rows: list[Any], message: str) -> None:
    written(tmp_path / "math500.jsonl", rows)
    with pytest.raises(DataError, match=message):
        load_named(BENCHMARKS["math500"], str(tmp_path))


def test_a_question_without_all_its_options_is_named(tmp_path: Path) -> None:
    written(tmp_path / "gpqa_diamond.jsonl", [GPQA[0], {**GPQA[1], "Incorrect Answer 2": None}])
    with pytest.raises(DataError, match="row 2: a wrong option is empty; fill in Incorrect Answer 1"):
        load_named(BENCHMARKS["gpqa_diamond"], str(tmp_path))


def test_rows_without_an_answer_are_left_out_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path / "aime24.jsonl", [{"problem": "x", "answer": None}, {"problem": "y", "answer": 1}])
    with caplog.at_level(logging.WARNING):
        assert [p.prompt for p in load_named(BENCHMARKS["aime24"], str(tmp_path))] == ["y"]
    assert "1 of 2 rows of aime24 have no answer" in caplog.text


class Golds:
    """A pool for which one gold cannot be parsed."""

    def judge(self, items: list[Item]) -> list[Judgement]:
        return [Judgement(Verdict.WRONG, reason="unparsed" if item.gold == "{" else "") for item in items]


def test_golds_that_no_answer_can_equal_are_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    rows = [("a", "{", "math"), ("b", "1", "math"), ("c", "seven", "number"), ("d", "x", "exact")]
    problems = [Problem(name, "p", gold, "mine", verifier=verifier) for name, gold, verifier in rows]
    with caplog.at_level(logging.WARNING):
        assert [p.id for p in without_unusable(problems, Golds())] == ["b", "d"]  # type: ignore[arg-type]
    assert "problem a of mine is left out: verifier math cannot judge against its gold '{' (unparsed)" in caplog.text
    with pytest.raises(DataError, match="no problem has a gold"):
        without_unusable(problems[:1], Golds())  # type: ignore[arg-type]


def test_training_on_a_test_set_is_refused(data_dir: Path) -> None:
    with pytest.raises(ConfigError, match="'aime24', a test set.*gsm8k_train, math_train"):
        load_problems(TaskSettings(names=("aime24",), data_dir=str(data_dir)))


def test_sets_that_share_an_id_cannot_be_trained_on_together(tmp_path: Path) -> None:
    for name, answer in (("gsm8k_train", "4"), ("math_train", "5")):
        written(tmp_path / f"{name}.jsonl", [{"id": "1", "problem": f"{name}?", "answer": answer}])
    task = TaskSettings(names=("gsm8k_train", "math_train"), data_dir=str(tmp_path), held_out=())
    with pytest.raises(DataError, match="problem '1' of gsm8k_train and of math_train"):
        load_problems(task, "train")


def test_a_run_is_evaluated_on_the_test_set_of_its_training_set() -> None:
    (test,) = chosen_tasks((), TaskSettings(names=("math_train", "gsm8k_train"), verifier="math"))
    assert (test.names, test.verifier) == (("math500", "gsm8k"), "auto")
    assert chosen_tasks((), TaskSettings()) == (TaskSettings(),)


def test_chosen_tasks_keep_their_own_verifiers_and_unknown_ones_are_corrected() -> None:
    run = TaskSettings(file="own.jsonl", verifier="number", data_dir="data")
    parts = chosen_tasks(("math500", "chain", "x/mine.jsonl", "aime24"), run)
    assert [(p.names, p.file) for p in parts] == [
        (("chain",), None), (("math500", "aime24"), None), (("chain", "search"), "x/mine.jsonl"),
    ]  # fmt: skip
    assert [p.verifier for p in parts] == ["number", "auto", "number"]
    assert parts[1].data_dir == "data" and parts[0].procedural and not parts[1].procedural
    assert chosen_tasks(("math500",), run, verifier="math")[0].verifier == "math"
    with pytest.raises(ConfigError, match="unknown task 'math50'; did you mean 'math500'"):
        chosen_tasks(("math50",), run)
    with pytest.raises(ConfigError, match="task.names holds 'gsm9k'; did you mean 'gsm8k'"):
        TaskSettings(names=("gsm9k",))
    with pytest.raises(ConfigError, match="task.files names 'mine'"):
        TaskSettings(files={"mine": "x"})
