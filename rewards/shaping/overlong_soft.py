"""`overlong_soft`: DAPO's soft punishment of overlong responses, a ramp over the last tokens before the cap.

    pen_i = -factor * clip((L_i - (cap - buffer)) / buffer, 0, 1)          cap: rollout.max_completion
    r_i   = pen_i + (1 if c_i = 1 else wrong)

By default wrong responses are punished in groups with a right one only; in an all-wrong group the published rule
(`all_wrong_groups: true`) would pay for being short and for nothing else. The published outcome is +1 or -1 with
factor 1 (`wrong: -1`, `factor: 1`). With outcomes 1 and 0 the same reward, up to scale and offset, has factor 0.5,
which is the default.

Source: DAPO, arXiv 2503.14476; verl (verl/workers/reward_manager/dapo.py). buffer 4,096 of a cap of 20,480, and
factor 1, are from memory of the paper; the default buffer is that share of the cap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import ConfigError
from .base import F64, Gate, Invariant, Need, Responses, RewardRange, Scope, ShapingDefaults
from .needed import needed

# Shapes: G responses of one prompt

SHARE = 4096 / 20_480
"""Published share of the buffer in the cap."""


@dataclass(frozen=True)
class OverlongSoft(ShapingDefaults):
    """r = outcome - factor * how far into the buffer before the cap."""

    buffer: int | None = None
    """Tokens before the cap over which the penalty grows; null: a fifth of the cap, as published."""
    factor: float = 0.5
    """Penalty at the cap; 1 with ``wrong`` -1 as published."""
    wrong: float = 0.0
    """Reward of a wrong response before the penalty; -1 as published."""
    all_wrong_groups: bool = False
    """Punish in groups without a right response, too, as published."""

    name: ClassVar[str] = "overlong_soft"
    scope: ClassVar[Scope] = "group"
    gate: ClassVar[Gate] = "none"
    needs: ClassVar[frozenset[Need]] = frozenset({"cap"})

    def __post_init__(self) -> None:
        if self.buffer is not None and self.buffer < 1:
            raise ConfigError(f"overlong_soft.buffer is {self.buffer} but must be at least 1 token; raise it")
        if self.wrong > 0:
            raise ConfigError(f"overlong_soft.wrong is {self.wrong} but a wrong response earns at most 0; lower it")
        if not 0 < self.factor <= 1 - self.wrong:
            raise ConfigError(
                f"overlong_soft.factor is {self.factor} but must be above 0 and at most 1 - wrong = {1 - self.wrong:g}"
                ", so that a right response at the cap never scores below a short wrong one; lower it"
            )

    @property
    def exceptions(self) -> Mapping[Invariant, str]:
        if not self.all_wrong_groups:
            return {}
        return {"all_wrong": "wrong responses near the cap are punished in every group, whoever else is right"}

    def range(self) -> RewardRange:
        return RewardRange(right=(1 - self.factor, 1.0), wrong=(self.wrong - self.factor, self.wrong))

    def check(self, rollout: Any) -> None:
        """Refuse a buffer that begins before the response does."""
        if self.buffer is not None and self.buffer > rollout.max_completion:
            raise ConfigError(
                f"overlong_soft.buffer is {self.buffer} but the longest answer has {rollout.max_completion} tokens "
                "(rollout.max_completion), so even an empty one would be overlong; lower it, or leave it out for a "
                "fifth of the longest"
            )

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (G,)."""
        cap = needed(responses.cap, self.name, "cap")
        buffer = SHARE * cap if self.buffer is None else self.buffer
        outcome_G = np.where(responses.right_N, 1.0, self.wrong)
        if not (self.all_wrong_groups or responses.right_N.any()):
            return outcome_G
        return outcome_G - self.factor * np.clip((responses.length_N - (cap - buffer)) / buffer, 0.0, 1.0)
