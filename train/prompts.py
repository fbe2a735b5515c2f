"""The prompts of a run as token ids, all of them before the first step: one that does not fit is found at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import DataError
from ..eval.tasks.problem import Problem
from ..eval.tasks.prompt import encode_prompt
from ..rollout.records import Ids


def encode_prompts(problems: Sequence[Problem], tokenizer: Any, template: str | None, max_prompt: int) -> list[Ids]:
    """Token ids of every problem's prompt, each int32 (T,).

    Raises:
        DataError: a prompt of more than ``max_prompt`` tokens, or one that cannot be encoded.
    """
    prompts = [encode_prompt(problem, tokenizer, template) for problem in problems]
    long = [index for index, ids in enumerate(prompts) if len(ids) > max_prompt]
    if long:
        worst = max(long, key=lambda index: len(prompts[index]))
        name, length = problems[worst].id, len(prompts[worst])
        raise DataError(
            f"{len(long)} of {len(prompts)} prompts are longer than rollout.max_prompt = {max_prompt}, and the longest "
            f"(problem {name!r}) has {length} tokens; set rollout.max_prompt={length}, or take these problems out of "
            "the data"
        )
    return prompts
