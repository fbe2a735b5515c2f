"""`hgpo`: responses compete with those of their own mode, and the two modes, thinking or not, with each other.

    mode_i  = no-think if the thought is empty, else think
    intra_i = 1 for the best response of its mode: right, then short
    inter_i = 1 for all responses of the better mode; no-think is better if R_no >= R_think - margin
    r_i     = (1 - share) * c_i + share * intra_i + alpha * inter_i         R: share of right responses in a mode

With gate ``correct_only`` intra and inter count for right responses only, so that an all-wrong group gets 0. With gate
``none`` and share 1, as published, the best response of a mode may be wrong, and what is right but not the best earns
as little as what is wrong. A group that has one mode only has no better one: inter is 0.

Responses that tie for the best (as right, as long) all get intra. The published method gives the advantage of inter to
the token that chooses the mode alone; here all tokens of the response share it.

Source: Think Only When You Need with Large Hybrid-Reasoning Models, arXiv 2505.14631, from memory; its margin and alpha
are unknown to us, and those below are ours. Published groups have as many responses of each mode, forced by its tag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from .base import F64, Invariant, Need, Responses, RewardRange, Scope, ShapingDefaults
from .modes import at_once

# Shapes: G responses of one prompt


@dataclass(frozen=True)
class Hgpo(ShapingDefaults):
    """r = (1 - share) c + share * [best of its mode] + alpha * [better mode]."""

    share: float = 0.5
    """How much of the outcome is for the best response of each mode alone; published: 1, all of it."""
    alpha: float = 0.2
    """Reward of the better mode."""
    margin: float = 0.0
    """delta: share of right responses by which thinking must be ahead to be the better mode."""
    gate: Literal["correct_only", "none"] = "correct_only"
    """Whether right responses only are compared, or all, as published."""

    name: ClassVar[str] = "hgpo"
    scope: ClassVar[Scope] = "group"
    needs: ClassVar[frozenset[Need]] = frozenset({"thought"})

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"hgpo.share is {self.share} but is a share of the outcome, from 0 to 1 (as published)")
        if not self.alpha >= 0 or not self.share + self.alpha > 0:
            raise ConfigError(
                f"hgpo.alpha is {self.alpha} and share {self.share}, but alpha must be 0 or more and one of them above "
                "0; for no comparison of modes use shaping 'none'"
            )
        if not -1 <= self.margin <= 1:
            raise ConfigError(f"hgpo.margin is {self.margin} but is a difference of shares, from -1 to 1")
        if self.gate not in ("correct_only", "none"):
            raise ConfigError(f"hgpo.gate is {self.gate!r}; known: correct_only, none (as published)")

    def range(self) -> RewardRange:
        wrong = (0.0, self.share + self.alpha) if self.gate == "none" else (0.0, 0.0)
        return RewardRange(right=(1 - self.share, 1 + self.alpha), wrong=wrong)

    @property
    def exceptions(self) -> Mapping[Invariant, str]:
        broken: dict[Invariant, str] = {"monotone": "modes are compared by how often they are right, not by length"}
        if self.gate == "none":
            broken["all_wrong"] = "the shortest response of each mode is its best one, and not to think the better mode"
            # A wrong response of the better mode, against a right one of the other; the best of a mode that is all
            # wrong, against a right one of the other mode that is not the best there.
            alone = self.share + (self.alpha if self.margin else -self.alpha)
            if max(self.alpha, alone) > 1 - self.share:
                broken["dominance"] = "the best response of a mode may be wrong, and a right one that is not gets less"
        return broken

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (G,)."""
        right_G, thinks_G = responses.right_N, ~at_once(responses)
        extra_G = self.share * best_of_mode(right_G, responses.length_N, thinks_G)
        extra_G += self.alpha * better_mode(right_G, thinks_G, self.margin)
        return (1 - self.share) * right_G + extra_G * (right_G if self.gate == "correct_only" else 1.0)


def best_of_mode(right_G: NDArray[np.bool_], length_G: F64, thinks_G: NDArray[np.bool_]) -> F64:
    """intra: 1 for the shortest right response of each mode, the shortest of all where none is right. float64 (G,)."""
    best_G = np.zeros(len(right_G), dtype=bool)
    for mode_G in (thinks_G, ~thinks_G):
        rivals_G = mode_G & right_G if (mode_G & right_G).any() else mode_G
        best_G |= rivals_G & (length_G == length_G[rivals_G].min(initial=np.inf))
    return best_G.astype(np.float64)


def better_mode(right_G: NDArray[np.bool_], thinks_G: NDArray[np.bool_], margin: float = 0.0) -> F64:
    """inter: 1 for the responses of the better mode, 0 for all where there is one mode only. float64 (G,)."""
    if thinks_G.all() or not thinks_G.any():
        return np.zeros(len(right_G))
    silent_wins = right_G[~thinks_G].mean() >= right_G[thinks_G].mean() - margin
    return (thinks_G != silent_wins).astype(np.float64)
