"""`autothink`: right without a thought beats right after one; wrong without a thought is worst; three stages.

    r0_i = 2 right at once, 1 right after a thought, 0 wrong after a thought, -1 wrong at once

    stage 1    r_i = r0_i - d_m          of the mode m that i is of: d_m = clip(slope * (z_m - target), 0, 1)
    stage 2    r_i = r0_i
    stage 3    r_i = r0_i + exp(-alpha * y_i) - 1     if right
                     r0_i + 1 - exp(-beta * y_i)      if wrong

z_m is the share of mode m in the generation, so that stage 1 keeps both modes alive (with target 0.5 and slope 2, d_m
reaches 1 where one mode has everything). y_i = (L_i - mean) / std (ddof 1) among the group's right responses for a
right one, among its wrong ones for a wrong one; 0 where these are equally long, no term where there is only one.
|y| counts as 10 at most, which a group of up to 100 never reaches. Each stage is a run of its own, from the weights of
the stage before; published with completion caps of 8,192, 16,384 and 24,576 tokens and the prompt ending in
"<think>\\n...\\n", which makes distilled models choose a mode at random.

As published (``all_wrong: published``) an all-wrong group prefers thoughts in all stages, and long ones in stage 3; by
default it gets equal rewards. Published code gives an unreadable answer 0 in both modes; here it is wrong like others.

Source: AutoThink, arXiv 2505.10832, and its code, TU2021/AutoThink verl/verl/trainer/main_ppo.py, where the balance is
r <- (1 - d) r + d t with t = 0, -1, 1, -2 (right and wrong after a thought, right and wrong at once): r - d for r0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from .base import F64, Gate, Invariant, Need, Responses, RewardRange, Scope, ShapingDefaults
from .modes import MODES_NOT_LENGTHS, at_once

# Shapes: N responses of a generation, G of one group, S of one group and one outcome

_FARTHEST = 10.0
"""Largest |y|."""
_LEAST_STD = 1e-6
"""Tokens; as published."""


@dataclass(frozen=True)
class AutoThink(ShapingDefaults):
    """r = 2, 1, 0 or -1 by outcome and mode, less the mode's surplus (stage 1), or with a length term (stage 3)."""

    stage: Literal[1, 2, 3] = 1
    """1 balances the modes, 2 rewards accuracy within them, 3 shortens."""
    target: float = 0.5
    """Share of the generation, in stage 1, above which a mode's rewards fall."""
    slope: float = 2.0
    """How fast they fall, in stage 1."""
    alpha: float = 0.05
    """Strength of the length term of right responses, in stage 3."""
    beta: float = 0.05
    """Strength of the length term of wrong responses, in stage 3: longer ones score higher."""
    all_wrong: Literal["equal", "published"] = "equal"
    """Rewards of a group without a right response: 0 for all, or by the formula."""

    name: ClassVar[str] = "autothink"
    scope: ClassVar[Scope] = "batch"
    gate: ClassVar[Gate] = "sign_split"
    needs: ClassVar[frozenset[Need]] = frozenset({"thought"})

    def __post_init__(self) -> None:
        if self.stage not in (1, 2, 3):
            raise ConfigError(f"autothink.stage is {self.stage!r}; known: 1 (balance), 2 (accuracy), 3 (length)")
        if not 0 < self.target < 1:
            raise ConfigError(
                f"autothink.target is {self.target} but must be above 0 and below 1 (the paper's value is 0.5); for no "
                "balance set autothink.stage=2"
            )
        if not self.slope > 0:
            raise ConfigError(
                f"autothink.slope is {self.slope} but must be above 0 (the paper's value is 2); for no balance set "
                "autothink.stage=2"
            )
        if not (self.alpha > 0 and self.beta >= 0):
            raise ConfigError(
                f"autothink.alpha is {self.alpha} and beta {self.beta}, but alpha must be above 0 and beta at least 0 "
                "(the paper's values are 0.05); for no length term set autothink.stage=2"
            )
        if not exp(-_FARTHEST * self.alpha) > 1 - exp(-_FARTHEST * self.beta):
            raise ConfigError(
                f"autothink.alpha {self.alpha} and beta {self.beta} let a long wrong response score above a long right "
                "one; lower them until exp(-10 alpha) > 1 - exp(-10 beta), as with the paper's 0.05"
            )
        if self.all_wrong not in ("equal", "published"):
            raise ConfigError(f"autothink.all_wrong is {self.all_wrong!r}; known: equal, published")

    @property
    def exceptions(self) -> Mapping[Invariant, str]:
        broken: dict[Invariant, str] = {"monotone": MODES_NOT_LENGTHS}
        if self.all_wrong == "published":
            broken["all_wrong"] = "as published, a group without a right response still prefers thoughts"
        return broken

    def range(self) -> RewardRange:
        # In stage 1 right responses can sink to 0, where wrong ones of the other mode have not been lowered; within a
        # generation they stay a whole point apart.
        if self.stage == 1:
            return RewardRange(right=(0.0, 2.0), wrong=(-2.0, 0.0))
        if self.stage == 2:
            return RewardRange(right=(1.0, 2.0), wrong=(-1.0, 0.0))
        return RewardRange(
            right=(exp(-_FARTHEST * self.alpha), 1 + exp(_FARTHEST * self.alpha)),
            wrong=(-exp(_FARTHEST * self.beta), 1 - exp(-_FARTHEST * self.beta)),
        )

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (N,)."""
        right_N, at_once_N = responses.right_N, at_once(responses)
        reward_N = np.where(at_once_N, np.where(right_N, 2.0, -1.0), right_N.astype(np.float64))
        if self.stage == 1:
            reward_N = reward_N - self._surplus(at_once_N)
        for group in responses.by_group():
            if self.stage == 3:
                reward_N[group] += self._length_part(right_N[group], responses.length_N[group])
            if self.all_wrong == "equal" and not right_N[group].any():
                reward_N[group] = 0.0
        return reward_N

    def _surplus(self, at_once_N: NDArray[np.bool_]) -> F64:
        """d of each response's mode."""
        share = float(at_once_N.mean())
        without, thinking = (min(max(self.slope * (z - self.target), 0.0), 1.0) for z in (share, 1 - share))
        return np.where(at_once_N, without, thinking)

    def _length_part(self, right_G: NDArray[np.bool_], length_G: F64) -> F64:
        part_G = np.zeros_like(length_G)
        part_G[right_G] = np.exp(-self.alpha * deviations(length_G[right_G])) - 1
        part_G[~right_G] = 1 - np.exp(-self.beta * deviations(length_G[~right_G]))
        return part_G


def deviations(length_S: F64) -> F64:
    """y: standard deviations (ddof 1) above the mean, 10 at most either way; 0 for a single response."""
    if len(length_S) < 2:
        return np.zeros_like(length_S)
    y_S = (length_S - length_S.mean()) / max(float(length_S.std(ddof=1)), _LEAST_STD)
    return np.clip(y_S, -_FARTHEST, _FARTHEST)
