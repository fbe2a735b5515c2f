"""All prompts of a run as token ids, before its first step."""

from __future__ import annotations

import numpy as np
import pytest

from laconic.errors import DataError
from laconic.eval.tasks import Problem
from laconic.train.prompts import encode_prompts
from laconic.train.thinker.tokenizer import build_tokenizer

PROBLEMS = [Problem(f"p{number}", "1" * number, "1", "test") for number in (3, 9, 5)]


def test_every_prompt_is_encoded_in_order_with_the_template():
    prompts = encode_prompts(PROBLEMS, build_tokenizer(), "{prompt}=", 10)
    assert [len(ids) for ids in prompts] == [4, 10, 6]
    assert all(ids.dtype == np.int32 for ids in prompts)


def test_a_prompt_that_is_too_long_is_named_with_the_limit_that_would_do():
    with pytest.raises(DataError, match=r"2 of 3 prompts .* = 4, .*'p9'\) has 9 tokens; set rollout.max_prompt=9"):
        encode_prompts(PROBLEMS, build_tokenizer(), None, 4)
