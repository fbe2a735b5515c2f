"""`dr_grpo`: the reward minus the mean of its group, not divided.

    A_i = r_i - mean_g

Without the division prompts of all difficulties weigh the same and length coefficients keep their size. Complete only
with ``objective.normalizer: constant``; dividing each row by its length would bring a length bias back.

Source: Understanding R1-Zero-Like Training, arXiv 2503.20783.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .grouping import GroupStats

# Shapes: N rollouts of all groups


@dataclass(frozen=True)
class DrGrpo:
    """A = r - mean of the group."""

    name: ClassVar[str] = "dr_grpo"

    def __call__(self, reward_N: ArrayLike, group_N: ArrayLike) -> NDArray[np.float64]:
        """Advantages, float64 (N,); 0 where the reward is NaN."""
        return GroupStats.of(reward_N, group_N).deviation_N
