"""`thinkprune`: a hard length cap that gets tighter stage by stage; a right response beyond it counts as wrong.

    stage = min(floor(step / stage_steps), number of caps - 1)
    r_i   = c_i * 1[L_i <= caps[stage]]

There is no length term: the cap does the pruning. Where it lies far below the usual length, no response earns
anything and nothing is learned, so the first cap belongs near the median length. A right response over the cap scores
like a wrong one, never below.

Source: ThinkPrune, arXiv 2504.01296; UCSB-NLP-Chang/ThinkPrune. There the cap is the sampler's own, each stage is a
run of its own from the last one's weights, and the system prompt ends in " The output of the assistant should be
within l tokens." (examples/data_preprocess/preprocess_past_aime_amc.py). The number of steps per stage is ours.
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
class ThinkPrune(ShapingDefaults):
    """r = c * 1[L <= cap of the stage]."""

    caps: tuple[int, ...] = (4000, 3000, 2000)
    """Longest response in tokens that earns anything, stage by stage."""
    stage_steps: int = 100
    """Generations per stage; the last one goes on."""

    name: ClassVar[str] = "thinkprune"
    scope: ClassVar[Scope] = "response"
    gate: ClassVar[Gate] = "correct_only"

    def __post_init__(self) -> None:
        if not self.caps or min(self.caps) < 1:
            raise ConfigError(f"thinkprune.caps is {list(self.caps)} but must hold at least one cap of 1 token or more")
        if self.stage_steps < 1:
            raise ConfigError(f"thinkprune.stage_steps is {self.stage_steps} but must be at least 1; raise it")

    @property
    def lowest_cap(self) -> int:
        """The tightest one of a run."""
        return min(self.caps)

    def range(self) -> RewardRange:
        return RewardRange(right=(0.0, 1.0), wrong=(0.0, 0.0))

    def check(self, rollout: Any) -> None:
        """Refuse a run in which no response can exceed any cap."""
        check_reached(self.name, "caps", self.lowest_cap, rollout)

    def cap_at(self, step: int) -> int:
        """The cap in generation ``step``, counted from 0."""
        return self.caps[min(step // self.stage_steps, len(self.caps) - 1)]

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (N,)."""
        return (responses.right_N & (responses.length_N <= self.cap_at(responses.step))).astype(np.float64)
