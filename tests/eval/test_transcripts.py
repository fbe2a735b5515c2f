from __future__ import annotations

import unicodedata
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.eval.transcripts import KEEP, pick_examples, shortened, split_thought, visible


def tables(written: Any) -> dict[str, pa.Table]:
    return {"base": written.base.samples, "trained": written.trained.samples}


def test_examples_are_an_easy_one_a_hard_one_and_one_the_trained_model_got_wrong(written: Any) -> None:
    easy, hard, wrong = pick_examples(tables(written))
    assert easy.level == 1 and all(response.right for response in easy.responses)
    assert hard.level == 8 and all(response.right for response in hard.responses)
    assert [response.right for response in wrong.responses] == [True, False]
    assert easy.task != hard.task, "examples of two tasks where there are two"
    assert len({easy.prompt, hard.prompt, wrong.prompt}) == 3
    assert [response.label for response in easy.responses] == ["base", "trained"]


def test_examples_show_what_the_row_says(written: Any) -> None:
    example = pick_examples({"base": written.base.samples})[0]
    response = example.responses[0]
    row = next(
        row
        for row in written.base.samples.to_pylist()
        if row["prompt_text"] == example.prompt and row["n_response"] == response.tokens
    )
    assert f"<think>{response.thought}</think>{response.answer}" == row["response_text"]
    assert (response.thought_tokens, response.verdict, example.gold) == (row["n_think"], row["verdict"], row["gold"])


def test_difficulty_is_length_where_there_are_no_levels(written: Any) -> None:
    table = written.base.samples
    table = table.set_column(table.column_names.index("level"), "level", pa.nulls(len(table), pa.int32()))
    easy, hard, *_ = pick_examples({"base": table})
    assert easy.responses[0].tokens < pc.mean(table["n_response"]).as_py() < hard.responses[0].tokens


def test_nothing_to_show_gives_no_examples(written: Any) -> None:
    assert pick_examples({}) == []
    assert pick_examples({"base": written.base.samples.slice(0, 0)}) == []
    right = written.base.samples.filter(written.base.samples["correct"])
    assert len(pick_examples({"base": right})) == 2


def test_the_last_end_of_thought_splits_and_without_one_all_is_thought() -> None:
    assert split_thought("<think>a</think>b</think>c", "</think>") == ("a</think>b", "c")
    assert split_thought("<think>a", "</think>") == ("a", "")
    assert split_thought("a</think>b", None) == ("", "a</think>b")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(st.characters(), max_size=30))
def test_visible_text_can_be_encoded_and_holds_no_control_character(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert not [c for c in shown if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    assert visible(shown) == shown


def test_ordinary_text_stays_as_it_is() -> None:
    text = "3+4=7, π ≈ 3.14, 日本語,\n\tnaïve 🙂"
    assert visible(text) == text and shortened(text) == text
    assert shortened("x" * (KEEP + 5)).endswith("[5 more characters left out]")
