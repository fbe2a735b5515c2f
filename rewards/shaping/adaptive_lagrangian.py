"""`adaptive_lagrangian` (A-DLP): a price per token that rises while accuracy is above its target and falls below it.

    r_i = c_i - min(lam * L_i, max_penalty)    if c_i = 1, or gate = none (published, with max_penalty null)
          0                                     if c_i = 0 and gate = correct_only
    after the generation:  lam <- max(0, lam + eta * (accuracy - target))

lam is the dual variable of "as short as possible at the target accuracy". It is part of the run's state: rewards of a
generation use the old value, and a run continues with it. accuracy is the share of right responses among all that were
judged, on all ranks.

As published there is no bound: lam * L passes 1 at 1,000 tokens from the start, where a right response scores below a
short wrong one, and all-wrong groups are rewarded for being short. By default right responses alone pay, 0.9 at most.

In an all-right group credit that divides by the group's standard deviation cancels lam, so the price does nothing
there: use `dr_grpo`.

Source: Thinking Fast and Right, arXiv 2505.18298, and its code, JinyanSu1/A-DLP verl/verl/trainer/main_ppo.py,
verl/verl/trainer/ppo/ray_trainer.py and scripts/train.sh (target 0.62 for DeepScaleR-1.5B, cap 8,192 tokens).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ...errors import ConfigError
from .base import F64, Invariant, Responses, RewardRange, Scope, ShapingDefaults

# Shapes: N responses


@dataclass(frozen=True)
class AdaptiveLagrangian(ShapingDefaults):
    """r = c - lam * L, where lam follows the accuracy."""

    start: float = 1e-3
    """lam at the start: reward per token. One that makes answers of usual length cost a tenth or more teaches from the
    first step."""
    eta: float = 1e-3
    """How much lam changes in a generation, per unit of accuracy above or below the target."""
    target: float | None = None
    """Accuracy to keep. None: that of the first generation, which is the start policy's, with the noise of one
    generation; published: 0.62, measured for one model and data set."""
    max_penalty: float | None = 0.9
    """Most that a response pays, below 1 so that a right one stays above a wrong one; None: no bound, as published."""
    gate: Literal["correct_only", "none"] = "correct_only"
    """Whether right responses pay, or all, as published."""

    name: ClassVar[str] = "adaptive_lagrangian"
    scope: ClassVar[Scope] = "history"

    def __post_init__(self) -> None:
        if not (self.start >= 0 and self.eta >= 0 and self.start + self.eta > 0):
            raise ConfigError(
                f"adaptive_lagrangian.start is {self.start} and eta {self.eta}, but both must be 0 or more and one "
                "above 0, otherwise length is never priced; the paper's values are 0.001"
            )
        if self.target is not None and not 0 <= self.target <= 1:
            raise ConfigError(
                f"adaptive_lagrangian.target is {self.target} but is a share of right responses, from 0 to 1; leave it "
                "out to take the first generation's"
            )
        if self.max_penalty is not None and not 0 < self.max_penalty < 1:
            raise ConfigError(
                f"adaptive_lagrangian.max_penalty is {self.max_penalty} but must be above 0 and below 1, so that a "
                "right response stays above a wrong one; null for no bound, as published"
            )
        if self.gate not in ("correct_only", "none"):
            raise ConfigError(f"adaptive_lagrangian.gate is {self.gate!r}; known: correct_only, none (as published)")

    @property
    def exceptions(self) -> Mapping[Invariant, str]:
        broken: dict[Invariant, str] = {}
        if self.max_penalty is None:
            broken["dominance"] = "without a bound, a right response pays more than it is worth from 1 / lam tokens on"
        if self.gate == "none":
            broken["all_wrong"] = "as published, wrong responses pay for their length too"
        return broken

    def range(self) -> RewardRange:
        most = np.inf if self.max_penalty is None else self.max_penalty
        return RewardRange(right=(1 - most, 1.0), wrong=(-most if self.gate == "none" else 0.0, 0.0))

    def first_state(self) -> dict[str, Any]:
        """``lam``, and ``target`` as soon as it is known."""
        return {"lam": self.start, "target": self.target}

    def next_state(self, responses: Responses) -> dict[str, Any]:
        """lam moved by this generation's accuracy."""
        accuracy = float(responses.right_N.mean())
        target = responses.state["target"]
        if target is None:
            target = accuracy
        return {"lam": max(0.0, responses.state["lam"] + self.eta * (accuracy - target)), "target": target}

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (N,)."""
        penalty_N = responses.state["lam"] * responses.length_N
        if self.max_penalty is not None:
            penalty_N = np.minimum(penalty_N, self.max_penalty)
        if self.gate == "correct_only":
            penalty_N = penalty_N * responses.right_N
        return responses.right_N - penalty_N
