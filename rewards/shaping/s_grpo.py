"""`s_grpo`: of the answers given from one thought at several exits, the first right one earns 1, each later one half.

    thought ─────o──────o─────o────── end      exits, in their order; the whole thought is the last one
                 0      1     1/2     1/4      right exits earn decay ^ (right exits before them), wrong ones 0

    r_j = c_j * decay^(N_j)        N_j: earlier exits of the same thought with a right answer

This is 2^-(N_right - 1) where N_right counts the right exits up to and including j; the first right exit earns 1.
Answers from the same exit share N_j, so several of them may be sampled. A thought that stopped by itself is answered
from its whole length, and an answer sampled without exits is its thought's only one: its reward is the outcome.

Published with rewards minus their mean as the advantage (``dr_grpo``), each answer's loss divided by its length
(``objective.normalizer: row_mean``), one thought per prompt and 8 exits: the driver ``anytime`` with group_size 1, unit
summary and one summary to each budget. Its exits are spread over the budgets, evenly or with one draw in each stretch,
where the paper draws them uniformly from the thought.

Source: S-GRPO, arXiv 2505.07686; read from a digest of the paper and from re-implementations, which disagree on
whether N_right counts the current exit.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import ConfigError
from .base import F64, Gate, Invariant, Need, Responses, RewardRange, Scope, ShapingDefaults
from .needed import needed

# Shapes: G responses of one prompt, X exits of one thought


@dataclass(frozen=True)
class SGrpo(ShapingDefaults):
    """r = c / 2^(earlier right exits of the same thought)."""

    decay: float = 0.5
    """What every earlier right exit leaves of the reward, above 0 and below 1."""

    name: ClassVar[str] = "s_grpo"
    scope: ClassVar[Scope] = "group"
    gate: ClassVar[Gate] = "correct_only"
    needs: ClassVar[frozenset[Need]] = frozenset({"chain", "exit"})

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1:
            raise ConfigError(
                f"s_grpo.decay is {self.decay} but must be above 0 and below 1, so that later exits earn less; "
                "published: 0.5"
            )

    def check(self, rollout: Any) -> None:
        """Refuse a run whose answers are not given from one thought."""
        driver = rollout.driver
        if getattr(driver, "name", "") != "anytime" or driver.unit != "summary" or driver.budgets < 2:
            raise ConfigError(
                "reward.shaping s_grpo pays for early exits, but here each thought is answered once, so outcomes alone "
                "would be rewarded; set rollout.driver.name=anytime, its unit=summary and its budgets to 2 or more"
            )

    def range(self) -> RewardRange:
        return RewardRange(right=(sys.float_info.min, 1.0), wrong=(0.0, 0.0))

    @property
    def exceptions(self) -> Mapping[Invariant, str]:
        return {"monotone": "exits of one thought are ordered by where they leave it, whatever their answers' lengths"}

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (G,)."""
        chain_G = needed(responses.chain_N, self.name, "chain_N")
        exit_G = needed(responses.exit_N, self.name, "exit_N")
        right_G, earlier_G = responses.right_N, np.zeros(len(responses))
        for chain in np.unique(chain_G):
            own_G = chain_G == chain
            right_X = np.unique(exit_G[own_G & right_G])
            earlier_G[own_G] = np.searchsorted(right_X, exit_G[own_G], side="left")
        return right_G * self.decay**earlier_G
