"""Statistics of rewards by group: group identity is data (``group_N``), groups differ in size and come in any order.

A reward that is NaN could not be scored: it is left out of its group's mean and deviation, and its own deviation is 0.
A group whose scored rewards are all equal has deviations of exactly 0, whatever rounding does to its mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import DataError
from ...rewards.grouping import index_groups

# Shapes: N rollouts of all groups, P groups

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GroupStats:
    """Rewards against those of their own group; every array is (N,), one value per rollout."""

    deviation_N: F64
    """Reward minus the group's mean; 0 where the reward is NaN."""
    count_N: F64
    """Scored rewards of the group."""
    std_N: F64
    """Sample standard deviation of the group (ddof 1); 0 with fewer than two scored rewards."""

    @classmethod
    def of(cls, reward_N: ArrayLike, group_N: ArrayLike) -> GroupStats:
        """From rewards (float, NaN where unscored) and group ids (int), both (N,).

        Raises:
            DataError: the shapes differ, or a reward is infinite.
        """
        given_N, id_P, index_N = index_groups(reward_N, group_N, "reward")
        reward = given_N.astype(np.float64)
        if np.isinf(reward).any():
            raise DataError(
                f"the reward of rollout {int(np.flatnonzero(np.isinf(reward))[0])} is infinite; rewards must be "
                "finite, or NaN where a response could not be scored"
            )
        scored_N = ~np.isnan(reward)
        count_P = np.bincount(index_N[scored_N], minlength=len(id_P)).astype(np.float64)

        mean_P = _sums(reward, scored_N, index_N, len(id_P)) / np.maximum(count_P, 1)
        deviation_N = np.where(scored_N & ~_all_equal(reward, index_N, len(id_P)), reward - mean_P[index_N], 0.0)
        square_P = _sums(deviation_N**2, scored_N, index_N, len(id_P))
        std_P = np.sqrt(square_P / np.maximum(count_P - 1, 1))
        return cls(deviation_N, count_P[index_N], std_P[index_N])


def _sums(value_N: F64, scored_N: NDArray[np.bool_], index_N: NDArray[np.int64], groups: int) -> F64:
    """Sum of the scored values of every group, (P,)."""
    return np.bincount(index_N[scored_N], weights=value_N[scored_N], minlength=groups).astype(np.float64)


def _all_equal(reward_N: F64, index_N: NDArray[np.int64], groups: int) -> NDArray[np.bool_]:
    """Whether all scored rewards of a rollout's group are the same number, (N,)."""
    low_P, high_P = np.full(groups, np.inf), np.full(groups, -np.inf)
    np.fmin.at(low_P, index_N, reward_N)
    np.fmax.at(high_P, index_N, reward_N)
    return (low_P >= high_P)[index_N]
