"""`treerl`: what a stretch of a tree is worth against all of the prompt, and against the stretch before it.

    c_i  = r_i - mean of the other leaves' rewards
    V(n) = mean of c over the leaves below n
    A(n) = [ (V(n) - V(prompt)) + (V(n) - V(parent)) ] / sqrt(k)        k leaves below n; prefix_weight sqrt

on the tokens of n in the rows of all leaves below it. So a prefix that k leaves share is trained k times, and weighs
sqrt(k) in all. All leaves count the same, those of weight 0 included: the published means do not look at weights. As
branches stand where answers were surprising, V is the value of what was sampled and no estimate without bias.
Equal rewards, and a lone answer, give 0.

Independent answers are trees of one node each: A = 2 c.

Source: TreeRL, arXiv 2506.11902, and its code THUDM/TreeRL openrlhf/trainer/ppo_utils/tree_node.py (the sum of the two
terms is from memory). There 16 of 30 leaves are trained, and a mean over all tokens is taken off V; neither is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from ...rollout.records import Group
from .base import F64, Gather, LeafCredit, TokenAdvantage, alone, rewards_by_group
from .rloo import Rloo
from .tree import LeafTree, PrefixWeight

# Shapes: n rollouts of one group, each of one leaf; N of all groups; K nodes


@dataclass(frozen=True)
class TreeRL(LeafCredit):
    """Global plus local advantage of each stretch of a tree."""

    prefix_weight: PrefixWeight = "sqrt"
    """What the advantage of a stretch above k leaves is divided by: 1 (none), the root of k (sqrt) or k (mean)."""

    name: ClassVar[str] = "treerl"

    def __call__(self, reward_N: ArrayLike, group_N: ArrayLike) -> F64:
        """Advantages of independent answers, float64 (N,)."""
        return 2 * Rloo()(reward_N, group_N)

    def on_trees(self, reward_N: ArrayLike, groups: Sequence[Group], gather: Gather = alone) -> list[TokenAdvantage]:
        """Advantages of tokens, for each rollout."""
        advantages: list[TokenAdvantage] = []
        for group, reward_n in zip(groups, rewards_by_group(reward_N, groups), strict=True):
            tree, scored_n = LeafTree.of(group, self.name), ~np.isnan(reward_n)
            centred_n = Rloo()(reward_n, np.zeros(len(reward_n)))
            value_K = tree.mean_of_leaves(centred_n, scored_n)
            both_K = (value_K - value_K[0]) + (value_K - tree.parents(value_K))
            value_nK = both_K * tree.prefix_weight(self.prefix_weight, scored_n) * scored_n[:, None]
            advantages += tree.spread(value_nK)
        return advantages
