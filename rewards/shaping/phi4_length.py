"""`phi4_length`: the reward of Phi-4-reasoning-plus, with a free zone for right responses and a floor for wrong ones.

    g(x; a0, a1) = a1 + 0.5 * (a0 - a1) * (1 + cos(pi * clip(x, 0, 1)))
    R_i = g((L_i - free) / (longest - free); 1, 0.5)    if c_i = 1
          g(L_i / wrong_until; -1, -0.5)                if c_i = 0
          -0.5                                          if it ran into the cap
          -1                                            if it has no end-of-thought mark and require_thought is set
    r_i = scale * R_i

A right response loses nothing up to `free` tokens; a wrong one loses less the longer it is, up to `wrong_until`. In
groups without a right response the default pays -0.5 to all. As published, length counts there, too
(`all_wrong_groups: true`), and a response without its mark gets -1 even if it is right (`require_thought: true`).

Source: Phi-4-reasoning, arXiv 2504.21318; constants and ranges from a summary, the cosine from memory. Published is
8/13 of this and 1/13 of a penalty for repeated 5-grams, whose constants are not known: `scale` and, as a further
shaping, `ngram_rep` stand for the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import ConfigError
from .base import F64, Gate, Invariant, Need, Responses, RewardRange, Scope, ShapingDefaults
from .cosine import half_cosine
from .needed import check_reached, needed

# Shapes: G responses of one prompt

RIGHT = (1.0, 0.5)
"""R of a right response in the free zone, and at the longest."""
WRONG = (-1.0, -0.5)
"""R of a wrong response of no length, and from ``wrong_until`` on."""


@dataclass(frozen=True)
class Phi4Length(ShapingDefaults):
    """Right: 1, falling to 0.5 beyond the free zone. Wrong: -1, rising to -0.5."""

    free: int = 25_600
    """Tokens up to which a right response loses nothing."""
    longest: int = 31_744
    """Tokens at which it has lost a half."""
    wrong_until: int = 3702
    """Tokens up to which a wrong response loses less the longer it is."""
    scale: float = 1.0
    """Factor of the whole reward; 8/13 as published, beside a repetition penalty of weight 1/13."""
    require_thought: bool = False
    """Give -1 to a response without an end-of-thought mark, right or wrong, as published."""
    all_wrong_groups: bool = False
    """Pay for length in groups without a right response, too, as published."""

    name: ClassVar[str] = "phi4_length"
    scope: ClassVar[Scope] = "group"
    gate: ClassVar[Gate] = "sign_split"
    needs: ClassVar[frozenset[Need]] = frozenset({"truncated", "thought"})

    def __post_init__(self) -> None:
        if not 0 <= self.free < self.longest:
            raise ConfigError(
                f"phi4_length.free is {self.free} and longest {self.longest}, but 0 <= free < longest must hold, so "
                "that there is a stretch on which right responses lose; lower free"
            )
        if self.wrong_until < 1:
            raise ConfigError(f"phi4_length.wrong_until is {self.wrong_until} but must be at least 1 token; raise it")
        if not self.scale > 0:
            raise ConfigError(f"phi4_length.scale is {self.scale} but must be above 0; 8/13 = 0.615 as published")

    @property
    def exceptions(self) -> Mapping[Invariant, str]:
        named: dict[Invariant, str] = {}
        if self.require_thought:
            named["dominance"] = "a right response without its end-of-thought mark gets the least of all rewards"
            named["monotone"] = (
                "a short right response without its end-of-thought mark gets less than a long one with it"
            )
        if self.all_wrong_groups:
            named["all_wrong"] = "wrong responses are paid for their length in every group"
        return named

    def range(self) -> RewardRange:
        worst = WRONG[0] if self.require_thought else RIGHT[1]
        right, wrong = (worst, RIGHT[0]), WRONG
        return RewardRange(
            (self.scale * right[0], self.scale * right[1]), (self.scale * wrong[0], self.scale * wrong[1])
        )

    def check(self, rollout: Any) -> None:
        """Refuse a run in which every right response lies in the free zone."""
        check_reached(self.name, "free", self.free, rollout)

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (G,)."""
        if not (self.all_wrong_groups or responses.right_N.any()):
            return np.full(len(responses), self.scale * WRONG[1])
        length_G = responses.length_N
        right_G = half_cosine((length_G - self.free) / (self.longest - self.free), *RIGHT)
        wrong_G = half_cosine(length_G / self.wrong_until, *WRONG)
        reward_G = np.where(responses.right_N, right_G, wrong_G)
        reward_G = np.where(needed(responses.truncated_N, self.name, "truncated_N"), WRONG[1], reward_G)
        if self.require_thought:
            reward_G = np.where(np.isnan(needed(responses.thought_N, self.name, "thought_N")), WRONG[0], reward_G)
        return self.scale * reward_G
