"""`dler`: the reward of DLER, plain truncation: a right response beyond the cap counts as wrong.

    r_i = c_i * 1[L_i <= cap]

The paper's point is that this simplest length penalty suffices once the optimisation is right: rewards less the
group's mean, whitened over the batch (credit `reinforce_pp`), a higher upper clipping bound (0.28), a filter that
drops groups of equal rewards. `configs/methods/dler.yaml` puts these together. A right response over the cap scores
like a wrong one, never below.

Source: DLER, arXiv 2510.15110; NVlabs/DLER (dler_slurm.sh: max_response_length 4000, reward_manager dapo with its
overlong buffer off), where the cap is the sampler's own. The variant with a tighter cap for prompts that are solved
reliably is left out, as its thresholds are not published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import ConfigError
from .base import F64, Gate, Responses, RewardRange, Scope, ShapingDefaults
from .needed import check_reached

# Shapes: N responses


@dataclass(frozen=True)
class Dler(ShapingDefaults):
    """r = c * 1[L <= cap]."""

    cap: int = 4000
    """Longest response in tokens that earns anything."""

    name: ClassVar[str] = "dler"
    scope: ClassVar[Scope] = "response"
    gate: ClassVar[Gate] = "correct_only"

    def __post_init__(self) -> None:
        if self.cap < 1:
            raise ConfigError(f"dler.cap is {self.cap} but must be at least 1 token; raise it")

    @property
    def lowest_cap(self) -> int:
        """The tightest one of a run."""
        return self.cap

    def range(self) -> RewardRange:
        return RewardRange(right=(0.0, 1.0), wrong=(0.0, 0.0))

    def check(self, rollout: Any) -> None:
        """Refuse a run in which no response can exceed the cap."""
        check_reached(self.name, "cap", self.cap, rollout)

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (N,)."""
        return (responses.right_N & (responses.length_N <= self.cap)).astype(np.float64)
