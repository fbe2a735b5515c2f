"""`arora_sigmoid`: a right response loses more the longer it is beside the other right ones of its group.

    z_i = (L_i - mu) / (sd + 1e-7)        mu, sd (ddof 0) of the lengths of the group's right responses
    r_i = c_i * (1 - alpha * sigma(z_i))

One right response, or right ones of equal length: z = 0, r = 1 - alpha / 2. An all-wrong group gets 0. Published with
leave-one-out credit (``rloo``). Credit that divides by the group's standard deviation cancels alpha where all are
right.

The released code counts tokens without the end-of-sequence token; counting it, as here, moves all of them alike and so
no z.

Source: Training Language Models to Reason Efficiently, arXiv 2502.04463, and its code,
Zanette-Labs/efficient-reasoning (reward_server/math_server.py, run_rloo_1.5B.sh). The set of alphas 0.05, 0.1, 0.2,
0.4 is from memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from .base import F64, Gate, Responses, RewardRange, Scope, ShapingDefaults

# Shapes: G responses of one prompt, R right ones among them


@dataclass(frozen=True)
class AroraSigmoid(ShapingDefaults):
    """r = c (1 - alpha sigma(z)), where z is the length's z-score among the right responses of the group."""

    alpha: float = 0.1
    """Most that length takes off a right response, above 0 and below 1: the knob between accuracy and length."""

    name: ClassVar[str] = "arora_sigmoid"
    scope: ClassVar[Scope] = "group"
    gate: ClassVar[Gate] = "correct_only"

    def __post_init__(self) -> None:
        check_alpha(self.name, self.alpha)

    def range(self) -> RewardRange:
        return RewardRange(right=(1 - self.alpha, 1.0), wrong=(0.0, 0.0))

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (G,)."""
        return responses.right_N * (1 - self.alpha * length_sigmoid(responses.right_N, responses.length_N))


def check_alpha(method: str, alpha: float) -> None:
    """Raise ``ConfigError`` for an alpha that breaks the order of right and wrong, or does nothing."""
    if not 0 < alpha < 1:
        raise ConfigError(
            f"{method}.alpha is {alpha} but must be above 0 and below 1, so that a right response always scores above "
            "a wrong one; the published runs use 0.05 to 0.4"
        )


def length_sigmoid(right_G: NDArray[np.bool_], length_G: F64) -> F64:
    """sigma(z) of right responses, between 0 for short and 1 for long ones; 0 for wrong ones. float64 (G,)."""
    sigmoid_G = np.zeros(len(length_G))
    if right_G.any():
        # Sorted, so that the sums do not depend on the order of the group.
        length_R = np.sort(length_G[right_G])
        z_R = (length_G[right_G] - length_R.mean()) / (length_R.std() + 1e-7)
        sigmoid_G[right_G] = 1 / (1 + np.exp(-z_R))
    return sigmoid_G
