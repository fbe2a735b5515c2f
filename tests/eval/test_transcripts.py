from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from laconic.eval.transcripts import KEEP, pick_examples, shortened, split_thought


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


def test_what_is_left_out_of_a_very_long_text_is_said() -> None:
    assert shortened("x" * KEEP) == "x" * KEEP
    assert shortened("x" * (KEEP + 5)).endswith("[5 more characters left out]")
