"""`cosine`: right responses earn less the longer they are, wrong ones lose less, both along half a cosine.

    f(L; a0, a1) = a1 + 0.5 * (a0 - a1) * (1 + cos(pi * L / cap))          cap: rollout.max_completion
    r_i = f(L_i; right_short, right_long)    if c_i = 1
          exceed                             if c_i = 0 and L_i + margin >= cap
          f(L_i; wrong_short, wrong_long)    if c_i = 0

A short wrong response costs most, so that hard prompts are explored at length; one that runs into the cap costs as
much. In groups without a right response the default pays wrong_long to all. As published (`all_wrong_groups: true`,
`exceed_right: true`) wrong ones are paid by length in every group, and a right one next to the cap gets exceed as well.
Wrong rewards span ten times the range of right ones and dominate mixed groups; long wrong responses are soon padded
by repetition, which `ngram_rep` punishes.

Source: Demystifying Long CoT, arXiv 2502.03373; eddycmu/demystify-long-cot (openrlhf/openrlhf/reward/cosine.py and
common.py), with the values of its scripts. Its linear variant (length_scaled.py) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...errors import ConfigError
from .base import F64, Gate, Invariant, Need, Responses, RewardRange, Scope, ShapingDefaults
from .needed import needed

# Shapes: G responses of one prompt


@dataclass(frozen=True)
class Cosine(ShapingDefaults):
    """Half a cosine from the reward of an empty response to that of the longest, one for each outcome."""

    right_short: float = 2.0
    """Reward of a right response of no length."""
    right_long: float = 1.0
    """Reward of a right response at the cap."""
    wrong_short: float = -10.0
    """Reward of a wrong response of no length."""
    wrong_long: float = 0.0
    """Reward of a wrong response just before the cap."""
    exceed: float = -10.0
    """Reward of a response that has run into the cap."""
    margin: int = 16
    """Tokens before the cap from which on it counts as run into."""
    exceed_right: bool = False
    """Let right responses next to the cap get ``exceed``, too, as published."""
    all_wrong_groups: bool = False
    """Pay for length in groups without a right response, too, as published."""

    name: ClassVar[str] = "cosine"
    scope: ClassVar[Scope] = "group"
    gate: ClassVar[Gate] = "sign_split"
    needs: ClassVar[frozenset[Need]] = frozenset({"cap"})

    def __post_init__(self) -> None:
        if self.right_short < self.right_long:
            raise ConfigError(
                f"cosine.right_short is {self.right_short} but must be at least right_long = {self.right_long}, so "
                "that a shorter right response never scores below a longer one; exchange the two"
            )
        worst_right, best_wrong = self.right_long, max(self.wrong_short, self.wrong_long, self.exceed)
        if not worst_right > best_wrong:
            raise ConfigError(
                f"cosine.right_long is {worst_right} but must be above every reward of a wrong response, and the best "
                f"of those is {best_wrong}; raise right_long, or lower wrong_short, wrong_long and exceed"
            )
        if self.margin < 0:
            raise ConfigError(f"cosine.margin is {self.margin} but must be at least 0 tokens; published is 16")

    @property
    def exceptions(self) -> Mapping[Invariant, str]:
        named: dict[Invariant, str] = {}
        if self.exceed_right:
            named["dominance"] = "a right response next to the cap gets exceed, a shorter wrong one more"
        if self.all_wrong_groups:
            named["all_wrong"] = "wrong responses are paid for their length in every group"
        return named

    def range(self) -> RewardRange:
        wrong = (self.wrong_short, self.wrong_long, self.exceed)
        worst = min(self.right_long, self.exceed) if self.exceed_right else self.right_long
        return RewardRange(right=(worst, self.right_short), wrong=(min(wrong), max(wrong)))

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (G,)."""
        cap = needed(responses.cap, self.name, "cap")
        exceeds_G = responses.length_N + self.margin >= cap
        right_G = half_cosine(responses.length_N / cap, self.right_short, self.right_long)
        if self.exceed_right:
            right_G = np.where(exceeds_G, self.exceed, right_G)
        if not (self.all_wrong_groups or responses.right_N.any()):
            return np.full(len(responses), self.wrong_long)
        wrong_G = half_cosine(responses.length_N / cap, self.wrong_short, self.wrong_long)
        return np.where(responses.right_N, right_G, np.where(exceeds_G, self.exceed, wrong_G))


def half_cosine(share_G: F64, start: float, end: float) -> F64:
    """From ``start`` where the share is 0 to ``end`` where it is 1 or more, level at both. float64 (G,)."""
    return end + 0.5 * (start - end) * (1 + np.cos(np.pi * np.clip(share_G, 0.0, 1.0)))
