"""Advantages from values (GAE), and what a value learns.

With reward r_t, value V_t before token t and V = 0 after the last:

    delta_t  = r_t + gamma V_{t+1} - V_t
    A_t      = delta_t + gamma lambda A_{t+1}
    return_t = A_t + V_t                                with the critic's own lambda
    value loss = max( (V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2 ) / 2
    lambda(n)  = 1 - 1 / (alpha n)                      of an answer of n tokens, within 0 and 1

With gamma = lambda = 1 and one reward at the end, A_t = R - V_t and every return is R. With lambda below 1 that
reward reaches token t by lambda^(n - t) only, the rest comes by way of the values: lambda^100 is 0.0059 for 0.95. A
lambda that grows with the answer keeps that reach a fixed share of it, about alpha n tokens.

Source: GAE, arXiv 1506.02438; value clipping as in PPO's code; two lambdas: VC-PPO, arXiv 2503.01491; lambda by length:
VAPO, arXiv 2504.05118 (both from memory).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

# Shapes: B rows, T tokens of the longest row, M scored tokens

F64 = NDArray[np.float64]


def gae(
    reward_BT: ArrayLike, value_BT: ArrayLike, *, gamma: float, lambda_B: ArrayLike, trained_BT: ArrayLike | None = None
) -> F64:
    """Advantage of each token, float64 (B, T), 0 where ``trained_BT`` is not set.

    Args:
        reward_BT: reward after each token.
        value_BT: expected return before each token.
        gamma: discount per trained token.
        lambda_B: one for all rows, or one each.
        trained_BT: the tokens that are steps of the policy; what lies between them takes no time. All by default.
    """
    reward, value = np.asarray(reward_BT, np.float64), np.asarray(value_BT, np.float64)
    trained = np.ones(value.shape, dtype=bool) if trained_BT is None else np.asarray(trained_BT, dtype=bool)
    lambda_, advantage = np.asarray(lambda_B, np.float64), np.zeros(value.shape)
    next_value, next_advantage = np.zeros(value.shape[0]), np.zeros(value.shape[0])
    for t in reversed(range(value.shape[1])):
        step_B = trained[:, t]
        delta_B = reward[:, t] + gamma * next_value - value[:, t]
        next_advantage = np.where(step_B, delta_B + gamma * lambda_ * next_advantage, next_advantage)
        next_value = np.where(step_B, value[:, t], next_value)
        advantage[:, t] = np.where(step_B, next_advantage, 0.0)
    return advantage


def length_adaptive_lambda(length_B: ArrayLike, alpha: float) -> F64:
    """VAPO's lambda of answers of so many tokens; 0 for answers of up to 1 / alpha."""
    length = np.asarray(length_B, np.float64)
    return np.clip(1 - 1 / (alpha * np.maximum(length, 1)), 0.0, 1.0)


def value_loss(value_M: Tensor, old_value_M: Tensor, return_M: Tensor, clip: float | None) -> tuple[Tensor, Tensor]:
    """``(loss_M, clipped_M)``: half the squared error of each value, and whether the clipped one was the larger."""
    error_M = (value_M - return_M) ** 2
    if clip is None:
        return error_M / 2, torch.zeros_like(error_M, dtype=torch.bool)
    near_M = torch.max(torch.min(value_M, old_value_M + clip), old_value_M - clip)
    bounded_M = (near_M - return_M) ** 2
    return torch.max(error_M, bounded_M) / 2, bounded_M > error_M
