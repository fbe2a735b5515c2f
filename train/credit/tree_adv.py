"""`tree_adv`: each answer of a tree against all of its prompt and against those it shares a beginning with (TreePO).

With r the rewards and n_d the number of leaves below the node at depth d of leaf i's path (depth 0: the prompt):

    A_d(i) = r_i - mean of r below that node        kept for d = 0, and where there is more than one leaf
    A(i)   = mean of the kept A_d                   variant average
             sum_d n_d A_d / sum_d n_d              variant group_size
    A_it   = A(i) on all tokens of the leaf's path

    segment: r'_i = sum_d n_d A_d / sum_d n_d over all nodes, the leaf's own included;  V(leaf) = r'_i,  V(node) = mean
             of its children,  V(prompt) = 0;  A_it = V(node of t) - V(parent)

Then A_it is whitened over the tokens of all rows of the batch; a token that leaves share counts, and is trained, once
for each. Groups of equal rewards get 0 and do not count, as if a filter on outcomes had dropped them. A lone answer has
nothing to be compared with: 0, where the paper's code gives r.

Leaves are no independent samples: those that end early are fewer. By default all count the same, as published, those of
weight 0 (which a fallback added, or which branch off where an answer was surprising) included. ``leaf_weights:
baseline`` weighs them in the means, so that these estimate the values of prefixes without bias: leaves of weight 0 have
an advantage, but move no mean. ``full`` also multiplies a leaf's row by weight x leaves: weight 0 is not trained.

Source: TreePO, arXiv 2508.17445, and its code multimodal-art-projection/TreePO verl/trainer/ppo/core_algos.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import ConfigError
from ...rollout.records import Group
from .base import F64, Gather, LeafCredit, Scope, TokenAdvantage, alone, rewards_by_group
from .grouping import GroupStats
from .tree import LeafTree
from .whitening import checked_lengths, whiten

# Shapes: n rollouts of one group, each of one leaf; N of all groups; K nodes

NOTHING = 1e-12
"""Deviations of rewards below this are rounding."""


@dataclass(frozen=True)
class TreeAdv(LeafCredit):
    """A leaf's reward against the means of the subtrees it is in, whitened over the batch's tokens."""

    variant: Literal["average", "group_size", "segment"] = "average"
    """How the deviations of a leaf's path are joined: equally, by the sizes of subtrees, or to values of nodes."""
    leaf_weights: Literal["equal", "baseline", "full"] = "equal"
    """Where branching weights count: nowhere (published), in the means, or in the means and in what is trained."""
    skip_equal: bool = False
    """Leave out subtrees below the prompt whose rewards are all equal (published option, off)."""
    lone: Literal["zero", "reward"] = "zero"
    """Advantage of a prompt's only answer; ``reward`` as published."""
    whiten: bool = True
    """Subtract the batch's mean over tokens and divide by its deviation."""
    epsilon: float = 1e-8
    """Added to the variance."""

    name: ClassVar[str] = "tree_adv"
    scope: ClassVar[Scope] = "batch"

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ConfigError(f"credit.epsilon is {self.epsilon} but must be above 0; the published value is 1e-8")
        if self.skip_equal and self.variant == "segment":
            raise ConfigError(
                "credit.skip_equal has no effect with credit.variant segment, which counts every subtree; switch it off"
            )

    def __call__(
        self, reward_N: ArrayLike, group_N: ArrayLike, length_N: ArrayLike | None = None, gather: Gather = alone
    ) -> F64:
        """Advantages of independent answers of one node each, float64 (N,); ``length_N`` only serves whitening."""
        stats = GroupStats.of(reward_N, group_N)
        own = (stats.count_N + 1) / np.maximum(stats.count_N, 1) if self.variant == "segment" else 1.0
        scored_N = ~np.isnan(np.asarray(reward_N, np.float64))
        lone_N = scored_N & (stats.count_N == 1) & (self.lone == "reward")
        advantage_N = np.where(lone_N, reward_N, stats.deviation_N / own)
        if not self.whiten:
            return advantage_N
        length = checked_lengths(length_N, len(advantage_N), self.name)
        counted_N = scored_N & ((stats.std_N > 0) | lone_N)
        return np.where(counted_N, whiten(advantage_N, length * counted_N, epsilon=self.epsilon, gather=gather), 0.0)

    def on_trees(self, reward_N: ArrayLike, groups: Sequence[Group], gather: Gather = alone) -> list[TokenAdvantage]:
        """Advantages of tokens, for each rollout."""
        trees = [LeafTree.of(group, self.name) for group in groups]
        raw = [self._raw(*one) for one in zip(trees, rewards_by_group(reward_N, groups), strict=True)]
        if self.whiten:
            value, tokens = (np.concatenate([np.empty(0), *(one[i].ravel() for one in raw)]) for i in (0, 1))
            white = whiten(value, tokens, epsilon=self.epsilon, gather=gather)
            parts = np.split(white, np.cumsum([value_nK.size for value_nK, _ in raw])[:-1]) if raw else []
            raw = [(part.reshape(tokens_nK.shape), tokens_nK) for part, (_, tokens_nK) in zip(parts, raw, strict=True)]
        advantages: list[TokenAdvantage] = []
        for tree, (value_nK, tokens_nK) in zip(trees, raw, strict=True):
            scale_n = tree.relative_weight_n if self.leaf_weights == "full" else np.ones(len(value_nK))
            advantages += tree.spread(np.where(tokens_nK > 0, value_nK, 0.0) * scale_n[:, None])
        return advantages

    def _raw(self, tree: LeafTree, reward_n: F64) -> tuple[F64, F64]:
        """Advantage of each node in each row, and the trained tokens that have it, both (n, K)."""
        scored_n = ~np.isnan(reward_n)
        deviation_n = GroupStats.of(reward_n, np.zeros(len(reward_n))).deviation_N
        counted_n, leaf_n = scored_n & bool(deviation_n.any()), self._leaves(tree, deviation_n, scored_n)
        value_K = np.zeros(len(tree.nodes))
        if self.lone == "reward" and scored_n.sum() == 1:
            counted_n, leaf_n = scored_n, np.where(scored_n, reward_n, 0.0)
        elif self.variant == "segment":
            known_K = np.nan_to_num(tree.mean_of_children(np.where(scored_n, leaf_n, np.nan)))
            known_K[0] = 0
            value_K, leaf_n = known_K - tree.parents(known_K), np.zeros(len(reward_n))
        return value_K + leaf_n[:, None], tree.tokens_nK * counted_n[:, None]

    def _leaves(self, tree: LeafTree, deviation_n: F64, scored_n: NDArray[np.bool_]) -> F64:
        """Joined deviations of each leaf from the subtrees it is in, (n,)."""
        sum_n, size_n = np.zeros(len(scored_n)), np.zeros(len(scored_n))
        for node, below in enumerate(tree.below_K):
            rows = below[scored_n[below]]
            value = deviation_n[rows]
            if not len(rows) or (node and self.variant != "segment" and self._says_nothing(value)):
                continue
            weight = np.ones(len(rows)) if self.leaf_weights == "equal" else tree.weight_n[rows]
            mean = np.average(value, weights=weight if weight.any() else None)
            size = 1 if self.variant == "average" else len(rows)
            sum_n[rows] += size * (value - mean)
            size_n[rows] += size
        return sum_n / np.maximum(size_n, 1)

    def _says_nothing(self, value: F64) -> bool:
        return len(value) < 2 or (self.skip_equal and float(np.ptp(value)) < NOTHING)
