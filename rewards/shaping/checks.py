"""Alarms on shaped rewards: did length outvote the outcome, and where is length the only signal.

All are shares of groups, for the log of every step; ``correct_dominance`` and ``length_only_wrong`` should be 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..grouping import Outcomes

# Shapes: N responses of all groups, P groups

SAME = 1e-12
"""Rewards closer than this are equal; they are of order one and computed in float64."""


def correct_dominance(right_N: ArrayLike, reward_N: ArrayLike, group_N: ArrayLike) -> float:
    """Share of all groups that violate correct dominance: a wrong response is scored above a right one."""
    outcomes = Outcomes.of(right_N, group_N)
    reward = np.asarray(reward_N, dtype=np.float64)
    worst_right_P = _reduce(np.minimum, np.where(outcomes.right_N, reward, np.inf), outcomes)
    best_wrong_P = _reduce(np.maximum, np.where(outcomes.right_N, -np.inf, reward), outcomes)
    return outcomes.share(best_wrong_P > worst_right_P + SAME)


def length_only_signal(right_N: ArrayLike, reward_N: ArrayLike, group_N: ArrayLike) -> float:
    """Share of all groups whose outcomes are all equal while their rewards differ."""
    outcomes = Outcomes.of(right_N, group_N)
    reward = np.asarray(reward_N, dtype=np.float64)
    spread_P = _reduce(np.maximum, reward, outcomes) - _reduce(np.minimum, reward, outcomes)
    return outcomes.share((outcomes.all_right_P | outcomes.all_wrong_P) & (spread_P > SAME))


def length_only_wrong(right_N: ArrayLike, reward_N: ArrayLike, group_N: ArrayLike) -> float:
    """Share of all groups without a right response whose rewards differ: they teach to give up, or to ramble."""
    outcomes = Outcomes.of(right_N, group_N)
    reward = np.asarray(reward_N, dtype=np.float64)
    spread_P = _reduce(np.maximum, reward, outcomes) - _reduce(np.minimum, reward, outcomes)
    return outcomes.share(outcomes.all_wrong_P & (spread_P > SAME))


def _reduce(ufunc: np.ufunc, value_N: NDArray[np.float64], outcomes: Outcomes) -> NDArray[np.float64]:
    """Minimum or maximum of every group, float64 (P,)."""
    start = np.inf if ufunc is np.minimum else -np.inf
    best_P = np.full(len(outcomes.id_P), start)
    ufunc.at(best_P, outcomes.index_N, value_N)
    return best_P
