"""The one form the loss knows: tokens of one or more trees in depth-first order, with two weights per token.

Shapes: N tokens of the pack, prompts and inserted tokens included.

Row layout is the same form without merging: each row is a tree of a single path, ``sub_end`` is the row's end.
Visibility: query i sees key j exactly when ``j <= i < sub_end[j]``. The log-prob of token t is read off the hidden
state at ``pred[t]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """All arrays have shape (N,)."""

    ids: I64
    pos: I64
    """Position id: depth on the path."""
    sub_end: I64
    """Index just past the token's subtree."""
    pred: I64
    """Index of the token before it on its path; -1 for the first token of a tree."""
    old_logp: F32
    """Log-prob under the policy that the ratio is to; NaN where the token was not sampled."""
    engine_logp: F32
    """Behaviour log-prob as the engine reported it; NaN likewise. The same, unless the trainer scored ``old_logp``."""
    ref_logp: F32
    """Log-prob under the reference model; NaN where not computed."""
    w_pos: F32
    """Sum over rows of max(advantage, 0) * row weight."""
    w_neg: F32
    """Sum over rows of min(advantage, 0) * row weight."""
    w_kl: F32
    """Sum over rows of the row weight: multiplies the KL term."""
    w_ent: F32
    """Multiplies the entropy bonus."""
    w_nll: F32
    """Multiplies a plain negative log-likelihood term."""
    group: I64
    """``group_id`` of each token."""
    policy_version: I64
    """Of the policy that sampled the token; without meaning where none did."""
    value: F32 | None = None
    """Estimated return before the token, as of the generation's start; None without a value head."""
    returns: F32 | None = None
    """What the value learns; likewise."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Tokens that any term of the loss touches: their log-prob is needed."""
        return (self.w_pos != 0) | (self.w_neg != 0) | (self.w_kl != 0) | (self.w_ent != 0) | (self.w_nll != 0)

    @property
    def row(self) -> I64:
        """Number of the tree (in row layout: of the row) that each token belongs to."""
        return np.cumsum(self.pred < 0) - 1

    @property
    def trees(self) -> list[tuple[int, int]]:
        """``(start, stop)`` of each tree (in row layout: of each row)."""
        starts = np.flatnonzero(self.pred < 0)
        return [(int(start), int(self.sub_end[start])) for start in starts]


def weightless() -> PackedBatch:
    """A pack without any weight: keeps a rank with fewer packs in step with the others."""
    none, nan, zero = np.zeros(2, np.float32), np.full(2, np.nan, np.float32), np.zeros(2, np.int64)
    path: dict[str, Any] = dict(
        ids=np.zeros(2, np.int64), pos=np.arange(2), sub_end=np.full(2, 2), pred=np.array([-1, 0])
    )
    weights: dict[str, Any] = dict(w_pos=none, w_neg=none, w_kl=none, w_ent=none, w_nll=none)
    logp: dict[str, Any] = dict(old_logp=nan, engine_logp=nan, ref_logp=nan, value=nan, returns=nan)
    return PackedBatch(**path, **logp, **weights, group=zero, policy_version=zero)
