"""`laser`: a step reward for right responses that stay within a fixed target length.

    r_i = c_i + bonus * c_i * 1[L_i <= target]                          mode = reward
    r_i = c_i - bonus * c_i * 1[L_i > target]                           mode = penalty
    r_i = c_i + bonus * c_i * (1[L_i <= target] - 1[L_i > target])      mode = hybrid

All right responses within the target tie, so there is no pressure below it. Wrong responses get the constant `wrong`,
-0.5 in the release; it also gives -1 to a response without a boxed answer, right or not, which an outcome cannot tell
from a wrong one.

Source: LASER, arXiv 2505.15612; hkust-nlp/Laser (verl/utils/reward_score/length_penalty.py,
compute_length_reward_larse). Targets in its scripts: 2048, 4096, 8192.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ...errors import ConfigError
from .base import F64, Gate, Responses, RewardRange, Scope, ShapingDefaults
from .needed import check_reached

# Shapes: N responses

Mode = Literal["reward", "penalty", "hybrid"]


@dataclass(frozen=True)
class Laser(ShapingDefaults):
    """r = c + bonus for right responses within the target."""

    target: int = 2048
    """Longest response in tokens that gets the bonus."""
    bonus: float = 0.5
    """Size of the step."""
    mode: Mode = "reward"
    """Whether responses within the target gain, longer ones lose, or both."""
    wrong: float = 0.0
    """Reward of a wrong response; -0.5 as published."""

    name: ClassVar[str] = "laser"
    scope: ClassVar[Scope] = "response"
    gate: ClassVar[Gate] = "correct_only"

    def __post_init__(self) -> None:
        if self.target < 1:
            raise ConfigError(f"laser.target is {self.target} but must be at least 1 token; raise it")
        check_step(self.name, self.bonus, self.mode, self.wrong)

    def range(self) -> RewardRange:
        low, high = step_values(self.bonus, self.mode)
        return RewardRange(right=(1 + low, 1 + high), wrong=(self.wrong, self.wrong))

    def check(self, rollout: Any) -> None:
        """Refuse a run in which no response can exceed the target."""
        check_reached(self.name, "target", self.target, rollout)

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (N,)."""
        low, high = step_values(self.bonus, self.mode)
        right_N = 1 + np.where(responses.length_N <= self.target, high, low)
        return np.where(responses.right_N, right_N, self.wrong)


def step_values(bonus: float, mode: Mode) -> tuple[float, float]:
    """What a right response gets beyond the target, and within it."""
    return (0.0 if mode == "reward" else -bonus), (0.0 if mode == "penalty" else bonus)


def check_step(name: str, bonus: float, mode: Mode, wrong: float) -> None:
    """Raise ``ConfigError`` for settings under which the step does nothing or outvotes the outcome."""
    if mode not in ("reward", "penalty", "hybrid"):
        raise ConfigError(f"{name}.mode is {mode!r}; known: reward, penalty, hybrid")
    if wrong > 0:
        raise ConfigError(f"{name}.wrong is {wrong} but a wrong response earns at most 0; published is -0.5")
    limit = np.inf if mode == "reward" else 1 - wrong
    if not 0 < bonus < limit:
        raise ConfigError(
            f"{name}.bonus is {bonus} but must be above 0 and, with mode {mode} and wrong {wrong}, below {limit:g}, so "
            "that a right response never scores below a wrong one; published is 0.5"
        )
