"""`short_rl`: a length reward with a dead zone, given only while the batch is about as accurate as ever.

    len_i = 0.5                                            if c_i = 1 and L_i <= Lmin + tolerance
            0.5 - (L_i - Lmin) / (Lmax - Lmin + 1e-5)      if c_i = 1 otherwise
            0                                              if c_i = 0
    r_i   = c_i + weight * len_i      while accuracy >= best accuracy so far - accuracy_tolerance
            c_i                       else, for the whole batch

Lmin and Lmax are over the group's right responses, the accuracy is that of the whole batch. There is a step at the
edge of the dead zone: with lengths up to 800 and a tolerance of 100 above 200, 300 tokens get 0.5 and 301 get 0.332.

The best accuracy is the state. A batch of easy problems raises it for good; then the length reward stays off until
another batch comes near it.

Source: Short-RL, arXiv 2505.12284, and its code, lblankl/Short-RL (deepscaler/deepscaler/rewards/ShortRL.py), which
keeps the best accuracy in a module's global variable and so forgets it when a run is resumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from .base import F64, Gate, Responses, RewardRange, Scope, ShapingDefaults
from .needed import check_reached

# Shapes: N responses of a generation, G of one group


@dataclass(frozen=True)
class ShortRl(ShapingDefaults):
    """r = c + weight * len, where len is 0.5 within a tolerance of the shortest right response and falls from there."""

    weight: float = 0.286
    """Of the length term, above 0 and at most 1. Published: 1 beside answers worth 2 and -1.5, a gap of 3.5; the gap is
    1 here."""
    tolerance: float = 100
    """Tokens above the shortest right response that cost nothing. Published: 100 for mathematics, 200 for logic."""
    accuracy_tolerance: float = 0.05
    """How far the accuracy of a batch may lie below the best one so far before length stops to count."""

    name: ClassVar[str] = "short_rl"
    scope: ClassVar[Scope] = "history"
    gate: ClassVar[Gate] = "correct_only"

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ConfigError(
                f"short_rl.weight is {self.weight} but must be above 0 and at most 1, so that a right response never "
                "scores below a wrong one; the published strength is 1 / 3.5"
            )
        if not self.tolerance >= 0:
            raise ConfigError(f"short_rl.tolerance is {self.tolerance} tokens but must be 0 or more; published: 100")
        if not 0 <= self.accuracy_tolerance <= 1:
            raise ConfigError(
                f"short_rl.accuracy_tolerance is {self.accuracy_tolerance} but is a difference of shares, from 0 to 1 "
                "(length always counts); published: 0.05"
            )

    def check(self, rollout: Any) -> None:
        """Refuse a dead zone that holds every answer."""
        check_reached(self.name, "tolerance", self.tolerance, rollout)

    def range(self) -> RewardRange:
        return RewardRange(right=(1 - 0.5 * self.weight, 1 + 0.5 * self.weight), wrong=(0.0, 0.0))

    def first_state(self) -> dict[str, Any]:
        return {"best_accuracy": 0.0}

    def next_state(self, responses: Responses) -> dict[str, Any]:
        """The best accuracy of a batch so far, this one included."""
        return {"best_accuracy": max(responses.state["best_accuracy"], float(responses.right_N.mean()))}

    def active(self, responses: Responses) -> bool:
        """Whether length counts in this generation."""
        return float(responses.right_N.mean()) >= responses.state["best_accuracy"] - self.accuracy_tolerance

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (N,)."""
        reward_N = responses.right_N.astype(np.float64)
        if self.active(responses):
            for rows_G in responses.by_group():
                term_G = length_term(responses.right_N[rows_G], responses.length_N[rows_G], self.tolerance)
                reward_N[rows_G] += self.weight * term_G
        return reward_N


def length_term(right_G: NDArray[np.bool_], length_G: F64, tolerance: float) -> F64:
    """len, from 0.5 down to -0.5 for the longest right response; 0 for wrong ones. float64 (G,)."""
    if not right_G.any():
        return np.zeros(len(length_G))
    shortest, longest = length_G[right_G].min(), length_G[right_G].max()
    falling_G = 0.5 - (length_G - shortest) / (longest - shortest + 1e-5)
    return np.where(right_G, np.where(length_G <= shortest + tolerance, 0.5, falling_G), 0.0)
