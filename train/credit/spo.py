"""`spo`: what each stretch of a tree adds to the value of the path it is on (segment policy optimisation).

    V(leaf) = r        V(n) = mean of V over the children of n

    difference   A(n) = V(n) - V(parent)                  value at the end of the stretch - at its beginning
    sibling_z    A(n) = (V(n) - V(parent)) / std of V over the parent's children      ddof 0; 0 where they are equal

on the tokens of n, divided by the number of leaves below n: each stretch is trained once, although it is in the rows of
all of them. With ``likely: 0.9`` only tokens that were sampled with a probability below 0.9 are trained; at the others
there was nothing to decide. The loss is still divided by all tokens.

V is a mean over children, not over leaves, which is the mean that branching weights give: unbiased where the number of
children does not depend on how they end. Leaves of weight 0 (which a fallback added, or which branch off at surprising
tokens) count as children like all others. One child alone has its parent's value, so A = 0 on it: where a path does not
branch nothing is learned.

Source: SPO, arXiv 2505.23564, and its code AIFrameResearch/SPO src/treetune/trainers/ppo_trainer.py (0.9, the mask,
values of trees); that a segment is trained once is our reading of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from ...errors import ConfigError
from ...rollout.records import Group
from .base import F64, Gather, LeafCredit, TokenAdvantage, alone, rewards_by_group
from .grouping import GroupStats
from .tree import LeafTree, PrefixWeight

# Shapes: n rollouts of one group, each of one leaf; N of all groups; K nodes

NOTHING = 1e-9
"""A standard deviation below this is rounding."""


@dataclass(frozen=True)
class Spo(LeafCredit):
    """A = value at the end of a stretch - value at its beginning."""

    advantage: Literal["difference", "sibling_z"] = "difference"
    """The gain in value, or the gain divided by the deviation among siblings."""
    likely: float = 1.0
    """Tokens sampled with at least this probability are not trained; 1 trains all. Published: 0.9."""
    prefix_weight: PrefixWeight = "mean"
    """What the advantage of a stretch above k leaves is divided by: 1 (none), the root of k (sqrt) or k (mean)."""

    name: ClassVar[str] = "spo"

    def __post_init__(self) -> None:
        if not 0 < self.likely <= 1:
            raise ConfigError(
                f"credit.likely is {self.likely} but is a probability above 0 and at most 1; the published value is 0.9"
            )

    def __call__(self, reward_N: ArrayLike, group_N: ArrayLike) -> F64:
        """Advantages of independent answers, float64 (N,), without the mask: their tokens are not known here."""
        stats = GroupStats.of(reward_N, group_N)
        if self.advantage == "difference":
            return stats.deviation_N
        std_N = stats.std_N * np.sqrt(np.maximum(stats.count_N - 1, 0) / np.maximum(stats.count_N, 1))
        return np.where(std_N > NOTHING, stats.deviation_N / np.maximum(std_N, NOTHING), 0.0)

    def on_trees(self, reward_N: ArrayLike, groups: Sequence[Group], gather: Gather = alone) -> list[TokenAdvantage]:
        """Advantages of tokens, for each rollout."""
        advantages: list[TokenAdvantage] = []
        for group, reward_n in zip(groups, rewards_by_group(reward_N, groups), strict=True):
            tree, scored_n = LeafTree.of(group, self.name), ~np.isnan(reward_n)
            deviation_n = GroupStats.of(reward_n, np.zeros(len(reward_n))).deviation_N
            leaf_n = np.where(scored_n, deviation_n, np.nan)
            value_K = tree.mean_of_children(leaf_n)
            gain_K = value_K - tree.parents(value_K)
            if self.advantage == "sibling_z":
                std_K = tree.parents(tree.std_of_children(leaf_n))
                gain_K = np.where(std_K > NOTHING, gain_K / np.maximum(std_K, NOTHING), 0.0)
            gain_K = np.nan_to_num(gain_K) * tree.prefix_weight(self.prefix_weight, scored_n)
            advantages += [self._masked(group, one) for one in tree.spread(gain_K * scored_n[:, None])]
        return advantages

    def _masked(self, group: Group, advantage: TokenAdvantage) -> TokenAdvantage:
        if self.likely == 1:
            return advantage
        decided = {
            segment: np.exp(group.segments[segment].logp.astype(np.float64)) < self.likely for segment in advantage
        }
        return {segment: np.where(decided[segment], values, 0.0) for segment, values in advantage.items()}
