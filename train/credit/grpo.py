"""`grpo`: the reward's z-score within its group.

    A_i = (r_i - mean_g) / (max(std_g, std_floor) + epsilon)        std_g with ddof 1, std_floor = reward.std_floor

A group of equal rewards, a group of one included, gets A = 0. The division cancels the scale of the reward: in groups
of right answers only, the weight of a length term has no effect.

Source: DeepSeekMath, arXiv 2402.03300; epsilon and ddof as in trl 1.16 (scale_rewards="group").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import ConfigError
from .grouping import GroupStats

# Shapes: N rollouts of all groups


@dataclass(frozen=True)
class Grpo:
    """A = (r - mean of the group) / (standard deviation of the group + epsilon)."""

    epsilon: float = 1e-4
    """Added to the standard deviation."""
    std_floor: float = field(default=0.0, metadata={"shared": True})
    """Least standard deviation to divide by, before epsilon is added: ``reward.std_floor``."""

    name: ClassVar[str] = "grpo"

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ConfigError(f"credit.epsilon is {self.epsilon} but must be above 0; the usual value is 1e-4")

    def __call__(self, reward_N: ArrayLike, group_N: ArrayLike) -> NDArray[np.float64]:
        """Advantages, float64 (N,); 0 where the reward is NaN."""
        stats = GroupStats.of(reward_N, group_N)
        return stats.deviation_N / (np.maximum(stats.std_N, self.std_floor) + self.epsilon)
