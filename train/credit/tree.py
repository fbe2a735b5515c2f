"""The tree above a group's leaves: nodes are stretches between which nothing branches off, each with the leaves below.

    segment 1  ───────a──────┬──b──  leaf 0        nodes: the prompt (0), 1[:3] = a, 1[3:5] = b, segment 2 = c
                             └─ segment 2 = c ─ leaf 1     leaves below: all, both, leaf 0, leaf 1

A segment is one node, or several where others branch off inside it. The end of a segment ends a node even if just one
goes on, so that a driver's levels stay levels. Parts of segments above no leaf are no nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...rollout.records import Group
from .base import F64, TokenAdvantage, constant, is_sampled, lone_leaf

# Shapes: n rollouts of one group, each of one leaf; K nodes

PrefixWeight = Literal["none", "sqrt", "mean"]
"""What the advantage of a node above k leaves is divided by: 1, sqrt(k) or k. Its tokens are in k rows, so ``mean``
trains them as if they were in one."""


@dataclass(frozen=True)
class Node:
    """Tokens ``start:stop`` of a segment."""

    segment: int
    start: int
    stop: int
    parent: int
    """Index of the node above it; -1 for the prompt."""


@dataclass(frozen=True)
class LeafTree:
    """Nodes and paths of a group; node 0 is the prompt, and parents precede their children."""

    group: Group
    nodes: tuple[Node, ...]
    path_n: tuple[tuple[int, ...], ...]
    """Nodes above each rollout's leaf, from the prompt on."""
    weight_n: F64
    """Weight of each rollout's leaf."""

    @classmethod
    def of(cls, group: Group, method: str) -> LeafTree:
        """The tree of a group whose rollouts have one leaf each. ``method`` is for the error of one that has not."""
        leaves = [group.leaves[lone_leaf(group, rollout, method)] for rollout in group.rollouts]
        pieces_n = [[(s.id, kept) for s, kept in group.path(leaf.segment)[1:] if kept] for leaf in leaves]
        cuts: dict[int, set[int]] = {}
        for segment, kept in (piece for pieces in pieces_n for piece in pieces):
            cuts.setdefault(segment, {0}).add(kept)
        nodes = [Node(0, 0, len(group.segments[0]), -1)]
        index: dict[tuple[int, int], int] = {}
        paths = []
        for pieces in pieces_n:
            path = [0]
            for segment, kept in pieces:
                places = sorted(cut for cut in cuts[segment] if cut <= kept)
                for start, stop in pairwise(places):
                    if (segment, start) not in index:
                        index[segment, start] = len(nodes)
                        nodes.append(Node(segment, start, stop, path[-1]))
                    path.append(index[segment, start])
            paths.append(tuple(path))
        return cls(group, tuple(nodes), tuple(paths), np.array([leaf.weight for leaf in leaves], np.float64))

    @cached_property
    def below_K(self) -> tuple[NDArray[np.int64], ...]:
        """Rollouts whose leaves are below each node, ascending."""
        below: list[list[int]] = [[] for _ in self.nodes]
        for rollout, path in enumerate(self.path_n):
            for node in path:
                below[node].append(rollout)
        return tuple(np.array(rollouts, np.int64) for rollouts in below)

    def prefix_weight(self, rule: PrefixWeight, scored_n: NDArray[np.bool_]) -> F64:
        """What the advantage of each node is multiplied with, (K,): 1, 1 / sqrt(k) or 1 / k for k scored leaves."""
        power = {"none": 0.0, "sqrt": -0.5, "mean": -1.0}[rule]
        counts = np.array([scored_n[below].sum() for below in self.below_K], np.float64)
        return np.maximum(counts, 1) ** power

    def mean_of_leaves(self, leaf_n: F64, scored_n: NDArray[np.bool_]) -> F64:
        """Mean over the scored leaves below each node, (K,); 0 without one."""
        rows_K = [below[scored_n[below]] for below in self.below_K]
        return np.array([leaf_n[rows].mean() if len(rows) else 0.0 for rows in rows_K], np.float64)

    def mean_of_children(self, leaf_n: F64) -> F64:
        """Values bottom up, (K,): of a node the plain mean over its children and the leaves that end there.

        A leaf's value NaN is left out, and a node without any value is NaN.
        """
        return np.array([np.mean(values) if values else np.nan for values in self._children(leaf_n)], np.float64)

    def std_of_children(self, leaf_n: F64) -> F64:
        """Standard deviation (ddof 0) of the values of each node's children, (K,); NaN without any."""
        return np.array([np.std(values) if values else np.nan for values in self._children(leaf_n)], np.float64)

    def _children(self, leaf_n: F64) -> list[list[float]]:
        """Known values of each node's children and of the leaves that end there."""
        inputs: list[list[float]] = [[] for _ in self.nodes]
        for path, value in zip(self.path_n, leaf_n.tolist(), strict=True):
            if not np.isnan(value):
                inputs[path[-1]].append(value)
        for index in reversed(range(1, len(self.nodes))):
            if inputs[index]:
                inputs[self.nodes[index].parent].append(float(np.mean(inputs[index])))
        return inputs

    def parents(self, value_K: F64) -> F64:
        """The value of each node's parent, (K,); the prompt's is its own."""
        return value_K[[max(node.parent, 0) for node in self.nodes]]

    @cached_property
    def tokens_nK(self) -> F64:
        """Trained tokens of each node in each rollout's row: 0 where the node is not on its path."""
        tokens_nK = np.zeros((len(self.path_n), len(self.nodes)))
        for rollout, path in enumerate(self.path_n):
            index = list(path)
            tokens_nK[rollout, index] = [self._trained(self.nodes[node]) for node in index]
        return tokens_nK

    @cached_property
    def relative_weight_n(self) -> F64:
        """Weights of leaves, scaled to a mean of 1; 1 where all are 0."""
        return self.weight_n / self.weight_n.mean() if self.weight_n.any() else np.ones(len(self.weight_n))

    def spread(self, value_nK: F64) -> list[TokenAdvantage]:
        """Advantages of nodes, (K,), or of nodes in each row, (n, K), as those of tokens for each rollout."""
        value_nK = np.broadcast_to(value_nK, (len(self.path_n), len(self.nodes)))
        advantages: list[TokenAdvantage] = []
        for rollout, path in enumerate(self.path_n):
            tokens = constant(self.group, self.group.rollouts[rollout], 0.0)
            for index in path:
                node = self.nodes[index]
                if node.segment in tokens:
                    tokens[node.segment][node.start : node.stop] = value_nK[rollout, index]
            advantages.append(tokens)
        return advantages

    def _trained(self, node: Node) -> int:
        return (node.stop - node.start) * is_sampled(self.group, node.segment)
