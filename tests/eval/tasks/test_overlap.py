"""Overlap of training and test problems: the shipped sets have none, planted ones are found."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import DataError
from laconic.eval.tasks.benchmarks import BENCHMARKS
from laconic.eval.tasks.load import load_problems
from laconic.eval.tasks.named import load_named
from laconic.eval.tasks.overlap import find_overlaps, words
from laconic.eval.tasks.problem import Problem
from laconic.eval.tasks.settings import TaskSettings

LONG = "Ann has 15 coins and gives away 4 of them to each of her two brothers. How many coins are left?"


def problem(text: str, name: str = "p") -> Problem:
    return Problem(name, text, "1", "mine")


@pytest.mark.parametrize("train", ["gsm8k_train", "math_train"])
def test_the_shipped_training_sets_share_nothing_with_the_test_sets_or_each_other(train: str, data_dir: Path) -> None:
    names = [
        name for name, row in BENCHMARKS.items() if row.role == "test" and (data_dir / f"{row.stem}.jsonl").exists()
    ]
    other = "math_train" if train == "gsm8k_train" else "gsm8k_train"
    test = [p for name in [*names, other] for p in load_named(BENCHMARKS[name], str(data_dir))]
    assert len(names) == 7 and find_overlaps(load_named(BENCHMARKS[train], str(data_dir)), test) == []


def test_layout_case_and_figures_do_not_matter() -> None:
    plain = "Find $\\frac{1}{2}$ of x² + Y."
    laid_out = "[asy] draw((0,0)); [/asy]find \\displaystyle \\left( \\dfrac{1}{2} \\right) of X2+y"
    assert words(plain) == words(laid_out) == ["find", "1", "2", "of", "x", "2", "y"]
    (found,) = find_overlaps([problem(laid_out)], [problem("other"), problem(plain, "t")])
    assert (found.kind, found.test_id, found.similarity) == ("exact", "t", 1.0)
    assert not find_overlaps([problem("find \\sin 2 of the number x")], [problem("find \\cos 2 of the number x")])


def test_the_worked_similarity() -> None:
    # 20 words: 15 sequences of six. One other word in the middle breaks six of them: 9 of 21 are common.
    text = [*"abcdefghijklmnopqrst"]
    other = [*text[:9], "new", *text[10:]]
    pair = [problem(" ".join(other))], [problem(" ".join(text))]
    assert find_overlaps(*pair) == []
    (found,) = find_overlaps(*pair, threshold=0.4)
    assert found.kind == "near" and found.similarity == pytest.approx(9 / 21, rel=1e-12)
    # At the end it breaks one: 14 of 16.
    assert find_overlaps([problem(" ".join([*text[:19], "new"]))], pair[1])[0].similarity == 14 / 16


def test_the_nearest_of_several_is_named_and_chat_messages_are_read() -> None:
    test = [problem(LONG.replace("two", "three"), "a"), problem(LONG.replace("left", "over"), "b")]
    asked = Problem("p", ({"role": "system", "content": "x"}, {"role": "user", "content": LONG}), "1", "mine")
    assert [found.test_id for found in find_overlaps([asked], test)] == ["b"]


def test_empty_and_short_texts_are_equal_to_nothing_else() -> None:
    assert find_overlaps([problem("?!"), problem("1 + 1")], [problem("..."), problem("1 + 2"), problem(LONG)]) == []


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.text("ab c", max_size=30), max_size=6), st.lists(st.text("ab c", max_size=30), max_size=6))
def test_the_index_finds_what_comparing_every_pair_finds(left: list[str], right: list[str]) -> None:
    def grams(text: str) -> set[tuple[str, ...]]:
        found = words(text)
        return {tuple(found[i : i + 6]) for i in range(max(1, len(found) - 5))} if found else set()

    def alike(a: str, b: str) -> bool:
        one, two = grams(a), grams(b)
        same = bool(one) and "".join(words(a)) == "".join(words(b))
        return same or (bool(one and two) and len(one & two) / len(one | two) >= 0.6)

    train = [problem(text, str(index)) for index, text in enumerate(left)]
    wanted = [p.id for p, text in zip(train, left, strict=True) if any(alike(text, other) for other in right)]
    assert [found.train_id for found in find_overlaps(train, [problem(text) for text in right])] == wanted


def test_held_out_problems_are_left_out_of_the_training_set(
    tmp_path: Path, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    test = load_named(BENCHMARKS["math500"], str(data_dir))
    rows = [{"problem": test[index].prompt, "answer": "1"} for index in (3, 40)]
    rows += [{"problem": f"{index} and something else", "answer": "1"} for index in range(3)]
    path = tmp_path / "math_train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = TaskSettings(names=("math_train",), files={"math_train": str(path)}, data_dir=str(data_dir))
    with caplog.at_level(logging.WARNING):
        assert len(load_problems(task)) == 3
    assert "2 of 5 training problems are left out: math500 holds them too" in caplog.text
    own = TaskSettings(
        file=str(path), columns={"prompt": "problem", "gold": "answer"}, data_dir=str(data_dir), held_out=("math500",)
    )
    assert len(load_problems(own)) == 3 and len(load_problems(own, "test")) == 5
    with pytest.raises(DataError, match="no training problem is left beside"):
        load_problems(TaskSettings(names=("math_train",), files={"math_train": str(path)}, held_out=(str(path),)))


def test_a_test_set_out_of_reach_is_said_unless_it_was_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr("datasets.load_dataset", offline)
    (tmp_path / "math_train.jsonl").write_text('{"problem": "x", "answer": "1"}\n')
    task = TaskSettings(names=("math_train",), data_dir=str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert len(load_problems(task)) == 1
    assert "were not compared with math500" in caplog.text
    with pytest.raises(DataError, match="math500 cannot be loaded from the Hub"):
        load_problems(TaskSettings(names=("math_train",), data_dir=str(tmp_path), held_out=("math500",)))
