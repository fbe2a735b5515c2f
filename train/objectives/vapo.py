"""`vapo`: PPO whose lambda grows with the answer, with the best of `dapo` and imitation of right answers.

The formulas of `ppo` with

    lambda_actor  = 1 - 1 / (0.05 n)     of an answer of n tokens, 0 for n <= 20: 0.8 at 100, 0.98 at 1,000
    lambda_critic = 1                    and a critic trained alone first
    epsilon_high  = 0.28                 clip-higher
    normalizer    = token_mean
    nll           = 0.1                  + 0.1 * mean over the tokens of right answers of -log pi

The geometric weights of an answer's later errors add up to about 0.05 n, whatever n: the reach of the outcome is a
fixed share of the answer. The paper samples few prompts often (16 answers each).

Source: VAPO, arXiv 2504.05118 (settings from memory).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..rows import Normalizer
from .ppo import Ppo


@dataclass(frozen=True)
class Vapo(Ppo):
    """PPO with a lambda by length."""

    length_adaptive: float | None = 0.05
    """alpha of the lambda by length, in place of lambda_actor."""
    epsilon_high: float = 0.28
    """A positive advantage stops acting where the ratio rises above 1 + epsilon_high."""
    normalizer: Normalizer = "token_mean"
    """What a row is divided by: the tokens of the update, its own length, or a constant."""
    nll: float = 0.1
    """Weight of the negative log-likelihood of right answers, a mean over their tokens; no advantage is in it."""
    value_warmup: int = 10
    """First generations in which only the value is learned."""

    name: ClassVar[str] = "vapo"
