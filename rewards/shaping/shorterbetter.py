"""`shorterbetter`: right responses are drawn to the length of the shortest right one of the group.

    SOL = the ``quantile`` of the lengths of right responses (0: their minimum); without any the mean of all lengths
    d_i = min(beta * |L_i - SOL|, most)
    r_i = alpha - d_i     if c_i = 1
          -d_i            if c_i = 0 and gate = none
          0               if c_i = 0 and gate = correct_only

As published (alpha 2, beta 0.001, most none, gate none) wrong responses are drawn to the same length from both sides,
those of an all-wrong group to their mean, and a right response more than alpha / beta tokens away scores below a wrong
one. By default length moves right responses only, and takes at most half of what they earn.

The shortest right response rules alone: one lucky guess draws the whole group to its length. A ``quantile`` above 0
needs more than one of them, and draws shorter ones up to it.

Source: ShorterBetter, arXiv 2504.21370; the formula is read from summaries of the paper, alpha and beta from memory (it
shows alpha 1 too).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ...errors import ConfigError
from .base import F64, Invariant, Responses, RewardRange, Scope, ShapingDefaults

# Shapes: G responses of one prompt


@dataclass(frozen=True)
class ShorterBetter(ShapingDefaults):
    """r = alpha c - beta |L - SOL|, where SOL is the length of the shortest right response of the group."""

    alpha: float = 1.0
    """Reward of a right response of the sought length; published: 2, which halves the weight of length beside it."""
    beta: float = 0.001
    """Price of a token of distance."""
    most: float | None = 0.5
    """Largest price of a distance, below alpha; none, as published: no largest one."""
    quantile: float = 0.0
    """Quantile of the lengths of right responses that is sought; 0, as published, is the shortest one's."""
    gate: Literal["correct_only", "none"] = "correct_only"
    """Whether length moves right responses only, or all, as published."""

    name: ClassVar[str] = "shorterbetter"
    scope: ClassVar[Scope] = "group"

    def __post_init__(self) -> None:
        for key in ("alpha", "beta"):
            if not getattr(self, key) > 0:
                raise ConfigError(
                    f"shorterbetter.{key} is {getattr(self, key)} but must be above 0; published: alpha 2, beta 0.001"
                )
        if self.most is not None and not 0 < self.most < self.alpha:
            raise ConfigError(
                f"shorterbetter.most is {self.most} but must be above 0 and below alpha = {self.alpha}, so that a "
                "right response never scores below a wrong one; choose half of alpha, or null (published) for none"
            )
        if not 0 <= self.quantile <= 1:
            raise ConfigError(f"shorterbetter.quantile is {self.quantile} but must be between 0 (the shortest) and 1")
        if self.gate not in ("correct_only", "none"):
            raise ConfigError(f"shorterbetter.gate is {self.gate!r}; known: correct_only, none (as published)")

    def range(self) -> RewardRange:
        most = np.inf if self.most is None else self.most
        wrong = (-most, 0.0) if self.gate == "none" else (0.0, 0.0)
        return RewardRange(right=(self.alpha - most, self.alpha), wrong=wrong)

    @property
    def exceptions(self) -> Mapping[Invariant, str]:
        broken: dict[Invariant, str] = {}
        if self.most is None:
            broken["dominance"] = "a right response more than alpha / beta tokens from the sought length scores below 0"
        if self.gate == "none":
            broken["all_wrong"] = "the published rule draws the responses of an all-wrong group to their mean length"
        if self.quantile > 0:
            broken["monotone"] = "right responses shorter than the sought quantile are drawn up to it"
        return broken

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (G,)."""
        right_G, length_G = responses.right_N, responses.length_N
        sought = np.quantile(length_G[right_G], self.quantile) if right_G.any() else length_G.mean()
        price_G = np.minimum(self.beta * np.abs(length_G - sought), np.inf if self.most is None else self.most)
        return np.where(right_G, self.alpha - price_G, -price_G if self.gate == "none" else 0.0)
