"""Where the thought of a response ends and the answer begins, in token ids."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
