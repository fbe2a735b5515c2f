"""`lcpo_exact`: the reward of L1-Exact, which falls with the distance between the length and the prompt's budget.

    d_i = min(alpha * |n - L_i|, max_penalty)           n: tokens that the prompt asks for
    r_i = c_i - d_i

A prompt without a budget takes the setting `budget`; without either the reward is the outcome. Wrong responses are
moved, too, but by default only in groups with a right one: an all-wrong group would learn a length and nothing else.
The published rule has no `max_penalty` and pays in every group (`max_penalty: null`, `all_wrong_groups: true`); there
a right response more than 1 / alpha tokens off scores below a wrong one that is on time.

Source: L1, arXiv 2503.04697; cmu-l3/l1 (math_reward.py: get_delta_score_linear, alpha 0.0003 in
scripts/train/run_l1_exact.sh). Its budgets are uniform in 100 to 4,000, and its instruction is " Think for n tokens.".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import ConfigError
from .base import F64, Gate, Invariant, Need, Responses, RewardRange, Scope, ShapingDefaults
from .needed import budgets, check_budget

# Shapes: G responses of one prompt


@dataclass(frozen=True)
class LcpoExact(ShapingDefaults):
    """r = c - min(alpha * |n - L|, max_penalty)."""

    alpha: float = 0.0003
    """Deduction per token that a response is too long or too short."""
    budget: int | None = None
    """Tokens for prompts that ask for none; null: their reward is the outcome."""
    max_penalty: float | None = 0.9
    """Largest deduction, below 1, so that a right response stays above every wrong one; null, as published: any."""
    all_wrong_groups: bool = False
    """Pay for length in groups without a right response, too, as published."""

    name: ClassVar[str] = "lcpo_exact"
    scope: ClassVar[Scope] = "group"
    gate: ClassVar[Gate] = "none"
    needs: ClassVar[frozenset[Need]] = frozenset({"budget"})

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ConfigError(f"lcpo_exact.alpha is {self.alpha} but must be above 0; published is 0.0003")
        if self.budget is not None and self.budget < 1:
            raise ConfigError(f"lcpo_exact.budget is {self.budget} but must be at least 1 token; raise it")
        if self.max_penalty is not None and not 0 < self.max_penalty < 1:
            raise ConfigError(
                f"lcpo_exact.max_penalty is {self.max_penalty} but must be above 0 and below 1, so that a right "
                "response never scores below a wrong one; null for the published rule, which has no limit"
            )

    @property
    def exceptions(self) -> Mapping[Invariant, str]:
        named: dict[Invariant, str] = {"monotone": "a response shorter than its budget loses as one that is longer"}
        if self.max_penalty is None:
            named["dominance"] = "without a limit, a right response far off its budget loses more than the outcome"
        if self.all_wrong_groups:
            named["all_wrong"] = "wrong responses are paid for their distance to the budget in every group"
        return named

    def range(self) -> RewardRange:
        most = np.inf if self.max_penalty is None else self.max_penalty
        return RewardRange(right=(1 - most, 1.0), wrong=(-most, 0.0))

    def check(self, rollout: Any) -> None:
        """Refuse a run without any budget, or with budgets so far away that every answer loses all it can."""
        most = np.inf if self.max_penalty is None else self.max_penalty
        check_budget(self.name, self.budget, rollout, most / self.alpha)

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (G,)."""
        outcome_G = responses.right_N.astype(np.float64)
        distance_G = np.nan_to_num(np.abs(budgets(responses, self.budget, self.name) - responses.length_N), nan=0.0)
        penalty_G = np.minimum(self.alpha * distance_G, np.inf if self.max_penalty is None else self.max_penalty)
        if not (self.all_wrong_groups or responses.right_N.any()):
            return outcome_G
        return outcome_G - penalty_G
