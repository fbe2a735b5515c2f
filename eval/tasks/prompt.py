"""From a problem to the token ids an engine is given."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import DataError
from ...rollout.records import Ids
from .problem import Problem

FIELD = "{prompt}"
"""What a template holds where the prompt goes."""


def encode_prompt(problem: Problem, tokenizer: Any, template: str | None = None) -> Ids:
    """Token ids of the prompt, shape (T,), int32.

    A text prompt goes to the tokenizer as it is; messages go through the tokenizer's chat template with the generation
    prompt added. ``template`` is put around the text, or around the last message.

    Raises ``DataError`` for messages without a chat template, a template without ``{prompt}``, an empty prompt, and
    characters that the tokenizer refuses.
    """
    if template is not None and FIELD not in template:
        raise DataError(f"the prompt template {template!r} has no {FIELD}; put it where the problem's text goes")
    if isinstance(problem.prompt, str):
        ids = _ids(problem, tokenizer, _around(problem.prompt, template))
    else:
        if not getattr(tokenizer, "chat_template", None):
            raise DataError(
                f"problem {problem.id!r} consists of chat messages, but the tokenizer has no chat template; "
                "map a text column to 'prompt', or use a model whose tokenizer has a chat template"
            )
        *before, last = problem.prompt
        messages = [*before, {**last, "content": _around(last["content"], template)}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        # The template writes the special tokens itself; a second BOS would change the prompt.
        ids = _ids(problem, tokenizer, text, add_special_tokens=False)
    if not len(ids):
        raise DataError(f"problem {problem.id!r} has an empty prompt; give it a text of at least one token")
    return np.asarray(ids, np.int32)


def _ids(problem: Problem, tokenizer: Any, text: str, **options: Any) -> list[int]:
    try:
        return list(tokenizer(text, **options)["input_ids"])
    except Exception as error:  # what the tokenizers package raises has no narrower class
        raise DataError(
            f"the tokenizer cannot encode the prompt of problem {problem.id!r} ({error}); use a model that knows its "
            "characters, or take the problem out"
        ) from error


def _around(text: str, template: str | None) -> str:
    # Not str.format: LaTeX is full of braces.
    return text if template is None else template.replace(FIELD, text)
