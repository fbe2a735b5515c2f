"""From a problem to the token ids an engine is given, and whether these have opened a thought already."""

from __future__ import annotations

import re
from typing import Any, Literal

import numpy as np

from ...errors import DataError
from ...rewards.verifiers.answer_part import END_THINK, THINK
from ...rollout.records import Ids
from .problem import Message, Problem

FIELD = "{prompt}"
"""What a template holds where the prompt goes."""
TAIL = 64
"""Tokens at the end of a prompt in which its think tag is looked for."""
Thought = Literal["none", "open", "closed"]
"""What a prompt ends in: no think tag, one that the response is inside of, or a thought that is over (``<think>``,
nothing, ``</think>``, as templates write it for answers without thinking)."""


def encode_prompt(problem: Problem, tokenizer: Any, template: str | None = None) -> Ids:
    """Token ids of the prompt, shape (T,), int32.

    A text prompt goes to the tokenizer as it is; messages go through the tokenizer's chat template with the generation
    prompt added. ``template`` is put around the text, or around the last message.

    Raises ``DataError`` for messages without a chat template, a chat template that does not begin the answer, a
    template without ``{prompt}``, an empty prompt, and characters that the tokenizer refuses.
    """
    if template is not None and FIELD not in template:
        raise DataError(f"the prompt template {template!r} has no {FIELD}; put it where the problem's text goes")
    if isinstance(problem.prompt, str):
        ids = _ids(problem, tokenizer, _around(problem.prompt, template))
    else:
        *before, last = problem.prompt
        messages = [*before, {**last, "content": _around(last["content"], template)}]
        # The template writes the special tokens itself; a second BOS would change the prompt.
        ids = _ids(problem, tokenizer, _rendered(problem, tokenizer, messages), add_special_tokens=False)
    if not len(ids):
        raise DataError(f"problem {problem.id!r} has an empty prompt; give it a text of at least one token")
    return np.asarray(ids, np.int32)


def prompt_thought(ids: Ids, tokenizer: Any) -> Thought:
    """Whether the prompt ``ids`` has opened a thought, as some chat templates do.

    A response to such a prompt holds the end of the thought only. Put ``<think>`` before its text where answers are
    judged: without the mark, a thought that never ends reads like an answer.
    """
    end = tokenizer.decode(ids[-TAIL:], skip_special_tokens=False)
    if _OPEN.search(end):
        return "open"
    return "closed" if _CLOSED.search(end) else "none"


_OPEN = re.compile(rf"{re.escape(THINK)}\s*$")
_CLOSED = re.compile(rf"{re.escape(THINK)}\s*{re.escape(END_THINK)}\s*$")


def _rendered(problem: Problem, tokenizer: Any, messages: list[Message]) -> str:
    """The messages as the chat template writes them, up to where the answer begins."""
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"problem {problem.id!r} consists of chat messages, but the tokenizer has no chat template; "
            "set task.chat=false (--no-chat) to give the text as it is, map a text column to 'prompt', or use a model "
            "whose tokenizer has a chat template"
        )
    text = str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    if text == tokenizer.apply_chat_template(messages, add_generation_prompt=False, tokenize=False):
        _check_beginning(tokenizer, messages, text)
    return text


def _check_beginning(tokenizer: Any, messages: list[Message], text: str) -> None:
    """Refuse a template that ignores ``add_generation_prompt`` though its answers begin with a header.

    Some need none: after ``[INST] ... [/INST]`` the answer follows at once.
    """
    answer = "\x02answer\x03"
    whole = str(tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": answer}], tokenize=False))
    before = whole.partition(answer)[0]
    header = before.removeprefix(text.rstrip())
    if answer in whole and header.strip() and header != before:
        raise DataError(
            "the chat template has no generation prompt: the model would be asked to go on with the user's turn; add "
            f"{{% if add_generation_prompt %}}{{{{ {header.lstrip()!r} }}}}{{% endif %}} to the end of the template in "
            "the model's folder, or set task.chat=false (--no-chat)"
        )


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
