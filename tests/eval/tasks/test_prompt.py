"""Chat templates: with and without a think tag, with and without a generation prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from laconic.errors import DataError
from laconic.eval.tasks.problem import Problem
from laconic.eval.tasks.prompt import encode_prompt, prompt_thought
from laconic.eval.thinking import end_think_ids, response_text, think_split

TURN = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
BEGIN = "{% if add_generation_prompt %}<|assistant|>THINK{% endif %}"
Make = Callable[..., Any]
QUESTION = Problem("p", ({"role": "user", "content": "1+1?"},), "2", "mine")


@pytest.mark.parametrize(
    ("begin", "thought"),
    [
        ("", "none"),
        ("<think>\\n", "open"),
        ("<think>", "open"),
        ("<think>\\n\\n</think>\\n\\n", "closed"),
        ("</think>", "none"),
    ],
)
def test_what_the_chat_template_opens_is_noticed(begin: str, thought: str, chat_tokenizer: Make) -> None:
    words = chat_tokenizer(TURN + BEGIN.replace("THINK", begin.replace("\\n", "{{ '\\n' }}")))
    ids = encode_prompt(QUESTION, words)
    assert prompt_thought(ids, words) == thought
    assert words.decode(ids).startswith("<|user|>1+1?")


def test_a_tag_in_the_question_opens_nothing(chat_tokenizer: Make) -> None:
    words = chat_tokenizer(TURN + BEGIN.replace("THINK", ""))
    problem = Problem("p", ({"role": "user", "content": "what is <think>"},), "2", "mine")
    assert prompt_thought(encode_prompt(problem, words), words) == "none"


def test_a_template_without_generation_prompt_is_refused_where_answers_have_a_header(chat_tokenizer: Make) -> None:
    with pytest.raises(DataError, match=r"no generation prompt.*add_generation_prompt %}{{ '<\|assistant\|>' }}"):
        encode_prompt(QUESTION, chat_tokenizer(TURN))
    brackets = (
        "{% for m in messages %}{% if m.role == 'user' %}[I] {{ m.content }} [/I]{% else %} {{ m.content }}{% endif %}"
        "{% endfor %}"
    )
    words = chat_tokenizer(brackets)
    assert words.decode(encode_prompt(QUESTION, words)) == "[I] 1+1? [/I]"
    with pytest.raises(DataError, match="no chat template; set task.chat=false"):
        encode_prompt(QUESTION, chat_tokenizer(None))


@pytest.mark.parametrize("special", [False, True])
def test_think_tags_stay_in_the_text_that_is_judged(special: bool, chat_tokenizer: Make) -> None:
    words = chat_tokenizer(None, special=special)
    ids = words("<think>2</think>3<|end|>", return_tensors="np")["input_ids"][0]
    assert response_text(words, ids) == "<think>2</think>3"
    assert think_split(ids, end_think_ids(words, "</think>")) == (3, True)
