"""Random trees for the tests of what is packed as trees, and an ancestor walk that says who sees whom."""

from __future__ import annotations

import numpy as np

from laconic.kernels.tree_layout import TreeLayout


def random_nodes(seed: int, nodes: int = 7, longest: int = 12, empty: bool = False) -> tuple[list[int], list[int]]:
    """``(parent, length)`` in pre-order: a node's parent is on the path of the one before it, or none."""
    rng = np.random.default_rng(seed)
    parents, lengths, path = [], [], []
    for node in range(nodes):
        above = int(rng.integers(0, len(path) + 1)) if rng.random() < 0.9 else 0
        parents.append(path[above - 1] if above else -1)
        lengths.append(int(rng.integers(0 if empty else 1, longest + 1)))
        path = [*path[:above], node]
    return parents, lengths


def random_layout(seed: int, nodes: int = 7, longest: int = 12) -> TreeLayout:
    return TreeLayout.of_nodes(*random_nodes(seed, nodes, longest))


def walked_mask(layout: TreeLayout) -> np.ndarray:
    """The mask by following ``pred`` from each token to its root."""
    mask = np.zeros((len(layout), len(layout)), bool)
    for token in range(len(layout)):
        at = token
        while at >= 0:
            mask[token, at] = True
            at = int(layout.pred[at])
    return mask


def one_level(prompt: int, responses: list[int]) -> TreeLayout:
    return TreeLayout.of_nodes([-1] + [0] * len(responses), [prompt, *responses])


def binary(segment: int, depth: int) -> TreeLayout:
    """A node of ``segment`` tokens forks in two, ``depth`` times."""
    parents, stack = [], [(-1, 0)]
    while stack:
        parent, level = stack.pop()
        parents.append(parent)
        if level < depth:
            stack += [(len(parents) - 1, level + 1)] * 2
    return TreeLayout.of_nodes(parents, [segment] * len(parents))
