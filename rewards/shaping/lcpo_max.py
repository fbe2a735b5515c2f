"""`lcpo_max`: the reward of L1-Max, for right responses only, that falls from below the prompt's budget to above it.

    r_i = c_i * clip(alpha * (n - L_i) + delta, 0, 1)          n: tokens that the prompt asks for

A prompt without a budget takes the setting `budget`; without either the reward is the outcome. A right response at its
budget gets delta, one (1 - delta) / alpha tokens below it the full reward, and one delta / alpha tokens above it none:
it scores like a wrong one, never below. Wrong responses get 0, so an all-wrong group teaches nothing.

Source: L1, arXiv 2503.04697; cmu-l3/l1 (math_reward.py: get_delta_score_linear_both). The released code has the slope
a = 0.002 on a scale from -1 to 1, which is alpha = a / 2 and delta = 0.5 here. alpha = 0.0003 for this form and
delta = 0.5 are from memory of the paper. Its instruction is " Think for maximum n tokens.", n uniform in 100 to 4,000.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import ConfigError
from .base import F64, Gate, Need, Responses, RewardRange, Scope, ShapingDefaults
from .needed import budgets, check_budget

# Shapes: N responses


@dataclass(frozen=True)
class LcpoMax(ShapingDefaults):
    """r = c * clip(alpha * (n - L) + delta, 0, 1)."""

    alpha: float = 0.0003
    """Reward lost per token; 0.001 in the released code."""
    delta: float = 0.5
    """Reward of a right response that has exactly its budget."""
    budget: int | None = None
    """Tokens for prompts that ask for none; null: their reward is the outcome."""

    name: ClassVar[str] = "lcpo_max"
    scope: ClassVar[Scope] = "response"
    gate: ClassVar[Gate] = "correct_only"
    needs: ClassVar[frozenset[Need]] = frozenset({"budget"})

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ConfigError(f"lcpo_max.alpha is {self.alpha} but must be above 0; published is 0.0003")
        if not 0 < self.delta <= 1:
            raise ConfigError(
                f"lcpo_max.delta is {self.delta} but must be above 0 and at most 1: it is the reward of a right "
                "response that has its budget; published is 0.5"
            )
        if self.budget is not None and self.budget < 1:
            raise ConfigError(f"lcpo_max.budget is {self.budget} but must be at least 1 token; raise it")

    def range(self) -> RewardRange:
        return RewardRange(right=(0.0, 1.0), wrong=(0.0, 0.0))

    def check(self, rollout: Any) -> None:
        """Refuse a run without any budget, or with budgets that no answer comes near."""
        check_budget(self.name, self.budget, rollout, (1 - self.delta) / self.alpha)

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (N,)."""
        spare_N = budgets(responses, self.budget, self.name) - responses.length_N
        kept_N = np.where(np.isnan(spare_N), 1.0, np.clip(self.alpha * spare_N + self.delta, 0.0, 1.0))
        return np.where(responses.right_N, kept_N, 0.0)
