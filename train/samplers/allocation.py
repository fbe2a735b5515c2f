"""How many answers each prompt gets under `gvm`, as plain functions over arrays.

Shapes: P prompts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


def raw_weights(norm_P: ArrayLike, rate_P: ArrayLike, alpha: float = 1e-3, beta: float = 2.0) -> F64:
    """G / sqrt(p + alpha / p^(beta - 1)), and 0 where G or p is 0; float64 (P,)."""
    norm, rate = np.asarray(norm_P, np.float64), np.asarray(rate_P, np.float64)
    known_P = (norm > 0) & (rate > 0)
    p_P = np.where(known_P, rate, 1.0)
    return np.where(known_P, norm / np.sqrt(p_P + alpha / p_P ** (beta - 1)), 0.0)


def shares(
    weight_P: F64, rate_P: ArrayLike, total: int, filter_threshold: float = 1.0, filter_insufficient: float = 0.0
) -> F64:
    """Weights that sum to 1 after both filters, float64 (P,); equal ones where nothing is left.

    Both filters look at the weights before either has dropped a prompt, and the rest is scaled up once, at the end.
    """
    rate = np.asarray(rate_P, np.float64)
    share_P = _normalised(weight_P)
    if filter_threshold > 0:
        share_P = np.where(rate > filter_threshold, 0.0, share_P)
    if filter_insufficient > 0:
        share_P = np.where(rate * share_P * total < filter_insufficient, 0.0, share_P)
    return _normalised(share_P) if share_P.any() else np.full(len(share_P), 1 / len(share_P))


def rounded(share_P: F64, total: int) -> I64:
    """Whole numbers next to ``share * total`` that sum to ``total``, int64 (P,).

    Each is rounded half to even. What is then missing is added one each where rounding took most, what is too much
    taken where it gave most; of equal ones the first.
    """
    wanted_P = share_P * total
    count_P = np.rint(wanted_P).astype(np.int64)
    error = total - int(count_P.sum())
    residual_P = wanted_P - count_P
    order = np.argsort(-residual_P if error > 0 else residual_P, kind="stable")
    count_P[order[: abs(error)]] += np.sign(error)
    return count_P


def allocate(share_P: F64, total: int, least: int = 0) -> I64:
    """``rounded``, without prompts of fewer than ``least`` answers; int64 (P,), sums to ``total``.

    The prompt with the smallest share goes first (of equal ones the last), and the rest is shared out again.
    """
    share_P = share_P.copy()
    while True:
        count_P = rounded(share_P, total)
        kept_P = share_P > 0
        if kept_P.sum() < 2 or not ((count_P < least) & kept_P).any():
            return count_P
        smallest = np.flatnonzero(share_P == share_P[kept_P].min())[-1]
        share_P[smallest] = 0.0
        share_P = _normalised(share_P)


def _normalised(weight_P: F64) -> F64:
    total = weight_P.sum()
    return weight_P / total if total > 0 else weight_P
