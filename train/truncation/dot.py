"""`dot`: Dynamic Outlier Truncation, which cuts the longest answers of prompts that are always solved.

In a group whose share of right answers is at least ``success_threshold``:

    Tq    = floor(mean(L) + alpha * std(L))            std with ddof 1, over all answers of the group
    cut_i = L_i - Tq
    m_i   = margin                                     if margin >= 1 or margin = 0
            max(floor(L_i * margin), 16)               if 0 < margin < 1
    answer i keeps its first Tq tokens                 if cut_i > 0 and cut_i >= m_i

The verifier then judges what is left. Usually the final answer is gone, the reward falls to 0 and the kept tokens get
the group's negative advantage; nothing else changes in the update, and the log-probs of the kept prefix stay valid.

Lengths are trained tokens, in a tree those of whole paths. A cut that falls into a beginning which other answers share
shortens the one answer only; the others keep their text. One outlier among G answers has a z-score of at most
(G - 1) / sqrt(G), so a small group never cuts anything: ``Dot.check`` refuses it.

Source: Anti-Length Shift, arXiv 2601.03969, and its code, U-rara/DOT projects/dot/length_truncation.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import ConfigError, DataError
from ...rollout.records import Group
from .cutting import cut_leaf

# Shapes: G rollouts of one group

LEAST_RELATIVE_MARGIN = 16
"""Tokens; a relative margin is never smaller."""


@dataclass(frozen=True)
class Dot:
    """Keep floor(mean + alpha * std) tokens of an answer that is longer by at least the margin, where all are right."""

    alpha: float = 3.0
    """Standard deviations above the mean from which on an answer is an outlier."""
    margin: float = 32
    """Fewest tokens worth a cut; between 0 and 1: a share of the answer's length, and at least 16 tokens."""
    success_threshold: float = 1.0
    """Share of right answers from which on a group is cut; 1 means all."""

    name: ClassVar[str] = "dot"

    def __post_init__(self) -> None:
        if not self.alpha >= 0:
            raise ConfigError(f"truncation.alpha is {self.alpha} but must be 0 or more; the paper's value is 3")
        if not self.margin >= 0:
            raise ConfigError(f"truncation.margin is {self.margin} but must be 0 or more; the paper's value is 32")
        if not 0 < self.success_threshold <= 1:
            raise ConfigError(
                f"truncation.success_threshold is {self.success_threshold} but is a share of right answers, above 0 "
                "and at most 1; the paper's value is 1"
            )

    def check(self, answers: int, mask_truncated_completions: bool = False) -> None:
        """Raise ``ConfigError`` where DOT could have no effect; ``answers`` to a prompt are the most there can be."""
        if mask_truncated_completions:
            raise ConfigError(
                "mask_truncated_completions is on together with truncation dot: it takes answers without an EOS token "
                "out of the loss, and those are exactly the answers DOT cuts; switch it off"
            )
        reach = _largest_z(answers)
        if reach <= self.alpha:
            raise ConfigError(
                f"truncation dot can never cut anything: one outlier among {answers} answers to a prompt has a "
                f"z-score of at most (G - 1) / sqrt(G) = {reach:.3f}, which does not exceed truncation.alpha = "
                f"{self.alpha:g}; raise rollout.group_size until a prompt has {self.smallest_group()} answers or more, "
                "or lower truncation.alpha"
            )

    def smallest_group(self) -> int:
        """The smallest group in which one outlier can lie more than ``alpha`` deviations above the mean."""
        # (G - 1) / sqrt(G) = alpha is a quadratic in sqrt(G); start just below its root, which rounding may move.
        size = max(1, int(((self.alpha + np.sqrt(self.alpha**2 + 4)) / 2) ** 2) - 1)
        while _largest_z(size) <= self.alpha:
            size += 1
        return size

    def cuts(self, right_G: ArrayLike, length_G: ArrayLike) -> NDArray[np.int64]:
        """Tokens kept of every answer, int64 (G,): its length where it is left alone.

        Raises:
            DataError: outcomes (bool) and lengths (int) differ in shape.
        """
        right, length = np.asarray(right_G), np.asarray(length_G, np.int64)
        if right.ndim != 1 or right.shape != length.shape:
            raise DataError(
                f"a group has one outcome and one length per answer, but their shapes are {right.shape} and "
                f"{length.shape}; pass two flat arrays of the same size"
            )
        if len(right) < 2 or right.astype(bool).mean() < self.success_threshold:
            return length.copy()
        threshold = int(length.mean() + self.alpha * length.std(ddof=1))
        excess_G = length - threshold
        return np.where((excess_G > 0) & (excess_G >= self._margins(length)), threshold, length)

    def apply(self, group: Group, right_G: ArrayLike) -> tuple[Group, list[int]]:
        """The group with its outliers cut, and the ids of the leaves that were; ``right_G`` has one entry a rollout.

        The tail of a cut answer stays in the group as a segment without a leaf, so that costs stay honest. The cut
        answers must be judged again.
        """
        if any(len(rollout.leaves) != 1 for rollout in group.rollouts):
            raise DataError(
                f"truncation dot cuts rollouts of one answer each, but a rollout of group {group.id} has several; use "
                "truncation.name=none with this driver"
            )
        leaves = [rollout.leaves[0] for rollout in group.rollouts]
        length_G = np.array([group.trained_length(group.leaves[leaf]) for leaf in leaves], np.int64)
        keep_G = self.cuts(right_G, length_G)
        cut = [leaves[index] for index in np.flatnonzero(keep_G < length_G)]
        for leaf, keep in zip(leaves, keep_G, strict=True):
            if leaf in cut:
                group = cut_leaf(group, leaf, int(keep))
        return group, cut

    def _margins(self, length_G: NDArray[np.int64]) -> NDArray[np.float64]:
        if 0 < self.margin < 1:
            return np.maximum((length_G * self.margin).astype(np.int64), LEAST_RELATIVE_MARGIN).astype(np.float64)
        return np.full(len(length_G), float(self.margin))


def _largest_z(group_size: int) -> float:
    """z-score of one outlier among equal answers: the largest that a group of this size allows."""
    return float((group_size - 1) / np.sqrt(group_size))
