"""Where the thought of a response ends and the answer begins, in token ids, and the text that is judged."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..rewards.verifiers.answer_part import END_THINK, THINK

# Shapes: T tokens of one response


def think_split(ids_T: NDArray[np.int32], end_ids: tuple[int, ...] | None) -> tuple[int, bool]:
    """(tokens up to and including the last end of thought, whether there is one).

    Without an end of thought everything is thought; with ``end_ids`` None the model has no thoughts.
    """
    if end_ids is None:
        return 0, False
    width = len(end_ids)
    if len(ids_T) >= width:
        windows = np.lib.stride_tricks.sliding_window_view(ids_T, width)
        ends = np.flatnonzero((windows == np.asarray(end_ids)).all(axis=1))
        if len(ends):
            return int(ends[-1]) + width, True
    return len(ids_T), False


def end_think_ids(tokenizer: Any, end_think: str) -> tuple[int, ...]:
    """Ids of the end of thought: one where the tokenizer has it as a token, else what it is spelled with."""
    vocabulary = tokenizer.get_vocab()
    if end_think in vocabulary:
        return (int(vocabulary[end_think]),)
    return tuple(int(token) for token in tokenizer(end_think, add_special_tokens=False)["input_ids"])


def response_text(tokenizer: Any, ids_T: NDArray[np.int32]) -> str:
    """The response without special tokens, but with its think tags where the tokenizer counts these as special."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).items()
    tags = {token: mark.content for token, mark in added if mark.special and mark.content in (THINK, END_THINK)}
    if not tags:
        return str(tokenizer.decode(ids_T, skip_special_tokens=True))
    pieces: list[str] = []
    start = 0
    for at in [index for index, token in enumerate(ids_T.tolist()) if token in tags]:
        pieces += [str(tokenizer.decode(ids_T[start:at], skip_special_tokens=True)), tags[int(ids_T[at])]]
        start = at + 1
    return "".join([*pieces, str(tokenizer.decode(ids_T[start:], skip_special_tokens=True))])
