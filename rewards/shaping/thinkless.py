"""`thinkless`: right without a thought is worth more than right after one, and wrong costs in either mode.

    r_i =  1                 if right and no token stands before the end-of-thought mark
           think             if right after a thought            (published: 0.5, there called 1 - gamma)
           wrong             if wrong, unreadable or truncated    (published: -1, in either mode)

The advantage is the reward less the group's mean, without its standard deviation: credit `dr_grpo`.

Of the method this file is the reward. Published training starts from a model that writes one of two control tokens
first, <think> or <short>, and splits its loss: 0.001 times the mean over responses at the control token, plus the mean
over all other tokens of the batch, because in a mean over all tokens the one that decides the mode weighs 1/L, less
after a long answer than after a short one. Neither is here: the mode is read off the end-of-thought mark, and the loss
is that of the objective. With `normalizer: row_mean` modes of unequal length tend to collapse into one.

Source: Thinkless, arXiv 2505.13379, and its code, VainF/Thinkless deepscaler/rewards/math_reward.py,
deepscaler/rewards/reward_types.py and verl/verl/trainer/ppo/core_algos.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...errors import ConfigError
from .base import F64, Gate, Invariant, Need, Responses, RewardRange, Scope, ShapingDefaults
from .modes import MODES_NOT_LENGTHS, at_once

# Shapes: N responses


@dataclass(frozen=True)
class Thinkless(ShapingDefaults):
    """r = 1 for right at once, less for right after a thought, a penalty for wrong."""

    think: float = 0.5
    """Reward of a right answer after a thought; between ``wrong`` and 1. Near 1 the modes are worth the same; the
    authors raise it to 0.6 where thinking dies out."""
    wrong: float = -1.0
    """Reward of a wrong answer, with or without a thought."""

    name: ClassVar[str] = "thinkless"
    scope: ClassVar[Scope] = "response"
    gate: ClassVar[Gate] = "correct_only"
    needs: ClassVar[frozenset[Need]] = frozenset({"thought"})

    def __post_init__(self) -> None:
        if not self.wrong < self.think < 1:
            raise ConfigError(
                f"thinkless.think is {self.think} but must be above thinkless.wrong = {self.wrong} and below 1, the "
                "reward of a right answer without a thought; the paper's values are 0.5 and -1"
            )

    @property
    def exceptions(self) -> Mapping[Invariant, str]:
        return {"monotone": MODES_NOT_LENGTHS}

    def range(self) -> RewardRange:
        return RewardRange(right=(self.think, 1.0), wrong=(self.wrong, self.wrong))

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (N,)."""
        right_reward_N = np.where(at_once(responses), 1.0, self.think)
        return np.where(responses.right_N, right_reward_N, self.wrong)
