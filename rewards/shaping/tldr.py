"""`tldr`: a length level in the prompt (short, medium, long), and a step reward for right responses that keep to it.

    r_i = c_i + bonus * c_i * 1[L_i <= n]          n: target of the level that the prompt names

As `laser`, with the target read from the prompt, so that one policy serves all levels and its user picks one. A prompt
without a level takes the setting `budget`; without either the reward is the outcome. Levels and their targets stand in
`rollout.budget.levels`, the wording in `rollout.budget.instruction`.

Source: TLDR of Making Small LMs Efficient Reasoners, arXiv 2505.07961. Its abstract names a length regulariser in the
reward and levels in the prompt; the exact formula was not available, so the form, the bonus (that of `laser`) and the
targets are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import ConfigError
from .base import F64, Gate, Need, Responses, RewardRange, Scope, ShapingDefaults
from .laser import Mode, check_step, step_values
from .needed import budgets, check_budget

# Shapes: N responses


@dataclass(frozen=True)
class Tldr(ShapingDefaults):
    """r = c + bonus for right responses within the target of their level."""

    bonus: float = 0.5
    """Size of the step."""
    mode: Mode = "reward"
    """Whether responses within the target gain, longer ones lose, or both."""
    budget: int | None = None
    """Target for prompts that name no level; null: their reward is the outcome."""

    name: ClassVar[str] = "tldr"
    scope: ClassVar[Scope] = "response"
    gate: ClassVar[Gate] = "correct_only"
    needs: ClassVar[frozenset[Need]] = frozenset({"budget"})

    def __post_init__(self) -> None:
        if self.budget is not None and self.budget < 1:
            raise ConfigError(f"tldr.budget is {self.budget} but must be at least 1 token; raise it")
        check_step(self.name, self.bonus, self.mode, 0.0)

    def range(self) -> RewardRange:
        low, high = step_values(self.bonus, self.mode)
        return RewardRange(right=(1 + low, 1 + high), wrong=(0.0, 0.0))

    def check(self, rollout: Any) -> None:
        """Refuse a run in which no prompt has a target that an answer can exceed."""
        check_budget(self.name, self.budget, rollout, 0)

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (N,)."""
        target_N = budgets(responses, self.budget, self.name)
        low, high = step_values(self.bonus, self.mode)
        step_N = np.where(responses.length_N <= target_N, high, low)
        return np.where(responses.right_N, 1 + np.where(np.isnan(target_N), 0.0, step_N), 0.0)
