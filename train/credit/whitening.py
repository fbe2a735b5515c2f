"""Whitening over a batch: every rank's values minus their weighted mean, over their standard deviation.

    W = sum w      m = sum w v / W      s2 = sum w (v - m)^2 / (W - ddof)      v' = (v - m) / sqrt(s2 + epsilon)

The weight of a value is the number of tokens it stands for, or 1. A value of weight 0 moves neither mean nor deviation.
Sums are exactly rounded, so neither the order of values nor the number of ranks changes a bit of the result.
"""

from __future__ import annotations

from math import fsum, sqrt

import numpy as np
from numpy.typing import ArrayLike

from ...errors import DataError
from .base import F64, Gather, alone

# Shapes: K values of this rank, N rollouts


def whiten(value_K: F64, weight_K: F64, *, ddof: int = 1, epsilon: float = 1e-8, gather: Gather = alone) -> F64:
    """The whitened values, float64 (K,); all 0 where those that have weight are equal."""
    counted_K = weight_K > 0
    parts = gather((value_K[counted_K], weight_K[counted_K]))
    value, weight = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    if not value.size or value.min() == value.max():
        return np.zeros(len(value_K))
    total = fsum(weight)
    mean = fsum(weight * value) / total
    variance = fsum(weight * (value - mean) ** 2) / max(total - ddof, 1.0)
    return (value_K - mean) / sqrt(variance + epsilon)


def checked_lengths(length_N: ArrayLike | None, count: int, credit: str) -> F64:
    """Lengths as float64 (N,).

    Raises:
        DataError: none were given, or they are no token counts of ``count`` rollouts.
    """
    if length_N is None:
        raise DataError(f"credit {credit} weighs rollouts by their tokens; pass the trained tokens of each as length_N")
    length = np.asarray(length_N, np.float64)
    if length.shape != (count,) or not (np.isfinite(length).all() and (length >= 0).all()):
        raise DataError(
            f"there are {count} rollouts, but the lengths have shape {length.shape} or are no token counts; pass one "
            "finite number from 0 on per rollout"
        )
    return length
