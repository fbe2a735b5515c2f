"""`tree_grpo`: the reward's z-score among all answers to the prompt plus that within the answer's own tree.

    A(i) = (r_i - mean_prompt) / (std_prompt + epsilon) + (r_i - mean_tree) / (std_tree + epsilon)     std with ddof 1

on all tokens of the answer's path. A tree is what shares its first segment. Equal rewards give 0 in either term. A tree
of one answer gives 0, where the authors' code takes mean 0 and std 1, so that the reward itself is added. All leaves
count the same, those of weight 0 included.

Independent answers are trees of one answer each: credit `grpo`.

Source: Tree-GRPO, arXiv 2509.21240, and its code AMAP-ML/Tree-GRPO verl/trainer/ppo/core_algos.py. There a node is an
agent's step; here it is whatever the driver branches at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from ...errors import ConfigError
from ...rollout.records import Group
from .base import F64, Gather, LeafCredit, TokenAdvantage, alone, constant, lone_leaf, rewards_by_group
from .grouping import GroupStats
from .grpo import Grpo

# Shapes: n rollouts of one group, each of one leaf; N of all groups


@dataclass(frozen=True)
class TreeGrpo(LeafCredit):
    """A = z-score in the prompt + z-score in the tree."""

    epsilon: float = 1e-6
    """Added to both standard deviations."""
    lone: Literal["zero", "reward"] = "zero"
    """What a tree, or a prompt, of one answer adds to its advantage; ``reward`` as published."""
    std_floor: float = field(default=0.0, metadata={"shared": True})
    """Least standard deviation to divide by, before epsilon is added: ``reward.std_floor``."""

    name: ClassVar[str] = "tree_grpo"

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ConfigError(f"credit.epsilon is {self.epsilon} but must be above 0; the published value is 1e-6")

    def __call__(self, reward_N: ArrayLike, group_N: ArrayLike) -> F64:
        """Advantages of independent answers, float64 (N,)."""
        return self._z(reward_N, group_N) + self._z(reward_N, np.arange(np.size(group_N)))

    def on_trees(self, reward_N: ArrayLike, groups: Sequence[Group], gather: Gather = alone) -> list[TokenAdvantage]:
        """Advantages of tokens, for each rollout."""
        advantages: list[TokenAdvantage] = []
        for group, reward_n in zip(groups, rewards_by_group(reward_N, groups), strict=True):
            leaves = [group.leaves[lone_leaf(group, rollout, self.name)] for rollout in group.rollouts]
            tree_n = [group.path(leaf.segment)[1][0].id for leaf in leaves]
            value_n = self._z(reward_n, np.zeros(len(reward_n))) + self._z(reward_n, tree_n)
            pairs = zip(group.rollouts, value_n.tolist(), strict=True)
            advantages += [constant(group, rollout, value) for rollout, value in pairs]
        return advantages

    def _z(self, reward_N: ArrayLike, group_N: ArrayLike) -> F64:
        z_N = Grpo(self.epsilon, std_floor=self.std_floor)(reward_N, group_N)
        alone_N = GroupStats.of(reward_N, group_N).count_N == 1
        return np.where(alone_N & (self.lone == "reward"), np.nan_to_num(np.asarray(reward_N, np.float64)), z_N)
