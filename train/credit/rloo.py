"""`rloo`: the reward minus the mean of the others in its group.

    A_i = r_i - mean_{j != i} r_j = G / (G - 1) * (r_i - mean_g)        0 for G = 1

Only the baseline is taken from the paper; its sequence-level ratio and its KL inside the reward are not.

Source: Back to Basics, arXiv 2402.14740.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .grouping import GroupStats

# Shapes: N rollouts of all groups, G of one group


@dataclass(frozen=True)
class Rloo:
    """A = r - mean of the other rewards of the group."""

    name: ClassVar[str] = "rloo"

    def __call__(self, reward_N: ArrayLike, group_N: ArrayLike) -> NDArray[np.float64]:
        """Advantages, float64 (N,); 0 where the reward is NaN, which does not count as one of the others either."""
        stats = GroupStats.of(reward_N, group_N)
        return stats.count_N / np.maximum(stats.count_N - 1, 1) * stats.deviation_N
