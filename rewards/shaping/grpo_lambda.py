"""`grpo_lambda`: a length reward for the best solved groups of the batch only, the outcome alone for all others.

    n   = floor(share * groups of the batch)
    top = the n groups with the highest solve rate p > 0; among equal ones a hash of step and problem id decides
    r_i = c_i * (1 - alpha * sigma(z_i))      in a top group, z as in ``arora_sigmoid``
          c_i                                 in all others

Which groups count as solved moves with the batch, so the method needs batches of many prompts; with fewer than
1 / share it never acts, and ``check`` says so.

Source: Stable Reinforcement Learning for Efficient Reasoning, arXiv 2505.18086. The share and alpha of 0.2, and
rounding down, are from memory or inferred. The order among equal solve rates is ours: by the ids themselves, whole
families of problems would never come first. Another paper calls a method with eligibility traces GRPO-lambda too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from .arora_sigmoid import check_alpha, length_sigmoid
from .base import F64, Gate, Need, Responses, RewardRange, Scope, ShapingDefaults
from .needed import needed

# Shapes: N responses of a generation, G of one group


@dataclass(frozen=True)
class GrpoLambda(ShapingDefaults):
    """The length reward of ``arora_sigmoid`` in the best solved groups of each generation, the outcome elsewhere."""

    share: float = 0.2
    """lambda: share of the generation's groups that get a length reward, rounded down."""
    alpha: float = 0.2
    """Most that length takes off a right response of these groups, above 0 and below 1."""

    name: ClassVar[str] = "grpo_lambda"
    scope: ClassVar[Scope] = "batch"
    gate: ClassVar[Gate] = "correct_only"
    needs: ClassVar[frozenset[Need]] = frozenset({"problem"})

    def __post_init__(self) -> None:
        check_alpha(self.name, self.alpha)
        if not 0 < self.share <= 1:
            raise ConfigError(
                f"grpo_lambda.share is {self.share} but is a share of the groups, above 0 and at most 1; choose 0.2, "
                "or shaping 'arora_sigmoid' for a length reward in all of them"
            )

    def check(self, rollout: Any) -> None:
        """Refuse a run in which no group would ever get the length reward."""
        prompts = rollout.prompts_per_step
        if not self.chosen(prompts):
            raise ConfigError(
                f"grpo_lambda.share {self.share:g} of rollout.prompts_per_step = {prompts} groups is none, so "
                f"length would never count; raise rollout.prompts_per_step to {int(np.ceil(1 / self.share))} or the "
                "share"
            )

    def chosen(self, groups: int) -> int:
        """How many of this many groups get the length reward."""
        # 0.29 * 100 is 28.999999999999996 in floating point.
        return int(self.share * groups + 1e-9)

    def range(self) -> RewardRange:
        return RewardRange(right=(1 - self.alpha, 1.0), wrong=(0.0, 0.0))

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (N,)."""
        reward_N = responses.right_N.astype(np.float64)
        for rows_G in self.top_groups(responses):
            sigmoid_G = length_sigmoid(responses.right_N[rows_G], responses.length_N[rows_G])
            reward_N[rows_G] *= 1 - self.alpha * sigmoid_G
        return reward_N

    def top_groups(self, responses: Responses) -> list[NDArray[np.int64]]:
        """Rows of each group that gets the length reward, the best solved first."""
        problem_N = needed(responses.problem_N, self.name, "problem_N")
        groups = list(responses.by_group())
        rate_P = [float(responses.right_N[rows_G].mean()) for rows_G in groups]
        solved = [index for index, rate in enumerate(rate_P) if rate > 0]
        first_P = [rows_G[0] for rows_G in groups]
        order_P = [_hash(f"{responses.step}/{problem_N[row]}") for row in first_P]
        solved.sort(key=lambda p: (-rate_P[p], order_P[p], responses.group_N[first_P[p]]))
        return [groups[index] for index in solved[: self.chosen(len(groups))]]


def _hash(text: str) -> bytes:
    """The same on every rank and after a resume."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
