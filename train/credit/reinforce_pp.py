"""`reinforce_pp`: rewards normalised over the whole batch, with or without the mean of the group as baseline.

    d_i = r_i - mean_g                                      baseline group (REINFORCE++-baseline, DLER's batch_std)
    d_i = r_i                                               baseline none  (REINFORCE++)
    m   = sum w_i d_i / sum w_i                             w_i = L_i (tokens) or 1 (rollouts)
    v   = sum w_i (d_i - m)^2 / (sum w_i - ddof)
    A_i = (d_i - m) / sqrt(v + epsilon)

One deviation for all groups: those with few right answers are not blown up as by their own, and length terms keep their
size between groups. Under `tokens` the sum over all tokens is 0, not that over a group: m differs from 0 where right
and wrong answers differ in length. With the group's mean as baseline, groups of equal rewards get 0 and count in
neither m nor v, as if a filter on outcomes had dropped them. Whether a KL penalty belongs into the reward is not asked
here: ``objective.kl`` puts it into the loss.

Source: REINFORCE++, arXiv 2501.03262 (number from memory), verl `core_algos.py` reinforce_plus_plus_baseline as DLER
(arXiv 2510.15110) calls it; its ddof and epsilon are from memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from ...errors import ConfigError
from ...rewards.grouping import index_groups
from .base import F64, Gather, Scope, alone
from .grouping import GroupStats
from .whitening import checked_lengths, whiten

# Shapes: N rollouts of all groups of this rank, P groups


@dataclass(frozen=True)
class ReinforcePP:
    """A = (r - mean of the group), whitened over the batch."""

    baseline: Literal["group", "none"] = "group"
    """What is taken off the reward before the batch's mean: the mean of its group, or nothing."""
    weights: Literal["tokens", "rollouts"] = "tokens"
    """What counts once in the batch's mean and deviation: each trained token, as published, or each rollout."""
    ddof: int = 1
    """Taken off the total weight in the variance: 0 or 1."""
    epsilon: float = 1e-8
    """Added to the variance."""

    name: ClassVar[str] = "reinforce_pp"
    scope: ClassVar[Scope] = "batch"

    def __post_init__(self) -> None:
        if self.ddof not in (0, 1):
            raise ConfigError(f"credit.ddof is {self.ddof} but must be 0 or 1; the published value is 1")
        if not self.epsilon > 0:
            raise ConfigError(f"credit.epsilon is {self.epsilon} but must be above 0; the usual value is 1e-8")

    def __call__(
        self, reward_N: ArrayLike, group_N: ArrayLike, length_N: ArrayLike | None = None, gather: Gather = alone
    ) -> F64:
        """Advantages, float64 (N,), of this rank's rollouts; 0 where the reward is NaN.

        Args:
            reward_N: rewards, NaN where unscored.
            group_N: group ids.
            length_N: trained tokens; only ``weights: rollouts`` can do without.
            gather: exchanges arrays with the other ranks.
        """
        stats = GroupStats.of(reward_N, group_N)
        reward, id_P, index_N = index_groups(reward_N, group_N, "reward")
        counted_N = ~np.isnan(reward.astype(np.float64))
        if self.baseline == "group":
            value_N = stats.deviation_N
            counted_N &= np.bincount(index_N[value_N != 0], minlength=len(id_P))[index_N] > 0
        else:
            value_N = np.where(counted_N, reward, 0.0).astype(np.float64)
        by_tokens = self.weights == "tokens"
        weight_N = checked_lengths(length_N, len(value_N), self.name) if by_tokens else np.ones(len(value_N))
        white_N = whiten(value_N, weight_N * counted_N, ddof=self.ddof, epsilon=self.epsilon, gather=gather)
        return np.where(counted_N, white_N, 0.0)
