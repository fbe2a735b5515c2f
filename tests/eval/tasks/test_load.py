"""From a task section to problems, and from problems to token ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laconic.errors import DataError
from laconic.eval.tasks import Problem
from laconic.eval.tasks.load import load_problems
from laconic.eval.tasks.prompt import encode_prompt
from laconic.eval.tasks.settings import TaskSettings
from laconic.train.thinker.tokenizer import build_tokenizer

CHAT = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}={% endif %}"


def problem(prompt: Any) -> Problem:
    return Problem("p", prompt, "1", "mine")


def test_families_take_turns_and_walk_through_their_levels() -> None:
    found = load_problems(TaskSettings(), "test", 6)
    assert [p.source for p in found] == ["chain", "search"] * 3
    assert [p.level for p in found] == [1, 1, 2, 2, 3, 3]
    assert load_problems(TaskSettings(), "test", 4) == found[:4]


def test_train_and_test_share_no_prompt() -> None:
    train, test = (load_problems(TaskSettings(names=("chain",), count=300), split) for split in ("train", "test"))
    assert len(train) == 300 and not {p.prompt for p in train} & {p.prompt for p in test}


def test_a_file_serves_up_to_the_count(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"q": f"{n}+1", "gold": n + 1}) + "\n" for n in range(5)))
    task = TaskSettings(file=str(path), columns={"prompt": "q"}, verifier="number")
    assert [len(load_problems(task, "test", count)) for count in (3, None, 9)] == [3, 5, 5]
    assert load_problems(task, "test", 1)[0].verifier == "number"


def test_text_prompts_are_encoded_as_they_are() -> None:
    tokenizer = build_tokenizer()
    ids = encode_prompt(problem("3+4="), tokenizer)
    assert ids.dtype == np.int32 and tokenizer.decode(ids) == "3+4="
    assert tokenizer.decode(encode_prompt(problem("3+4"), tokenizer, "1+{prompt}=")) == "1+3+4="


def test_messages_go_through_the_chat_template() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHAT
    messages = ({"role": "system", "content": "1;"}, {"role": "user", "content": "3+4"})
    assert tokenizer.decode(encode_prompt(problem(messages), tokenizer)) == "1;3+4="
    assert tokenizer.decode(encode_prompt(problem(messages), tokenizer, "{prompt}*2")) == "1;3+4*2="


def test_prompts_that_cannot_be_encoded_are_named() -> None:
    tokenizer = build_tokenizer()
    with pytest.raises(DataError, match="no chat template"):
        encode_prompt(problem(({"role": "user", "content": "3"},)), tokenizer)
    with pytest.raises(DataError, match="has no {prompt}"):
        encode_prompt(problem("3"), tokenizer, "3")
    with pytest.raises(DataError, match="empty prompt"):
        encode_prompt(problem(""), tokenizer)
