"""`parallel_accel`: ThreadWeaver's bonus for right responses whose threads ran beside each other.

    eta_i = 1 - T_i / L_i                 T: tokens on the longest dependency path, L: all tokens of the response
    r_i   = 1 + factor * min(eta_i, limit)    if c_i = 1
            wrong                             if c_i = 0

`limit` keeps threads from being padded: beyond it more parallel tokens earn nothing. A response of one thread, an empty
one included, has eta = 0. Meant for credit without the group's standard deviation (`dr_grpo`), which would blow the
bonus of at most factor * limit up to full size in groups of right responses.

Source: ThreadWeaver, arXiv 2512.07843; facebookresearch/threadweaver (threadweaver_rl/deepscaler/rewards/
math_rewardv2.py; factor 0.5 and limit 0.2 in train_par.slurm; a wrong response gets -1 in reward_types.py). Its README
writes the bonus with the ratio - 1, its code as above.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import ConfigError
from .base import F64, Gate, Invariant, Need, Responses, RewardRange, Scope, ShapingDefaults
from .needed import needed

# Shapes: N responses

ONE_THREAD = frozenset({"flat", "treepo", "eptree", "delethink", "summary", "budget_force"})
"""Drivers whose rollouts are one dependency path."""


@dataclass(frozen=True)
class ParallelAccel(ShapingDefaults):
    """r = c + factor * min(share of tokens off the longest path, limit) for right responses."""

    factor: float = 0.5
    """Bonus per share of tokens off the longest path."""
    limit: float = 0.2
    """Share from which on the bonus stays the same."""
    wrong: float = 0.0
    """Reward of a wrong response; -1 as published."""

    name: ClassVar[str] = "parallel_accel"
    scope: ClassVar[Scope] = "response"
    gate: ClassVar[Gate] = "correct_only"
    needs: ClassVar[frozenset[Need]] = frozenset({"critical"})

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ConfigError(f"parallel_accel.factor is {self.factor} but must be above 0; published is 0.5")
        if not 0 < self.limit <= 1:
            raise ConfigError(f"parallel_accel.limit is {self.limit} but must be above 0 and at most 1 (all tokens)")
        if self.wrong > 0:
            raise ConfigError(f"parallel_accel.wrong is {self.wrong} but a wrong response earns at most 0; lower it")

    @property
    def exceptions(self) -> Mapping[Invariant, str]:
        return {"monotone": "it pays for tokens decoded beside each other, not for fewer of them"}

    def range(self) -> RewardRange:
        return RewardRange(right=(1.0, 1 + self.factor * self.limit), wrong=(self.wrong, self.wrong))

    def check(self, rollout: Any) -> None:
        """Refuse a driver whose answers have one thread."""
        driver = getattr(rollout.driver, "name", "flat")
        if driver in ONE_THREAD:
            raise ConfigError(
                f"reward.shaping parallel_accel pays for threads that run beside each other, but rollout.driver "
                f"{driver} decodes an answer in one, so no reward would change; set rollout.driver.name=fork_join"
            )

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (N,)."""
        critical_N = needed(responses.critical_N, self.name, "critical_N")
        eta_N = 1 - critical_N / np.maximum(responses.length_N, 1.0)
        bonus_N = self.factor * np.clip(np.where(responses.length_N > 0, eta_N, 0.0), 0.0, self.limit)
        return np.where(responses.right_N, 1 + bonus_N, self.wrong)
