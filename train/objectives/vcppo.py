"""`vcppo`: PPO whose critic is trained first, and with a lambda of its own.

The formulas of `ppo` with

    lambda_critic = 1        values learn the outcome itself, without bias
    lambda_actor  = 0.95     advantages of less variance, from values that are right by then
    value_warmup  > 0        first generations of the unchanged policy train the critic alone

A critic that begins at 0, or at a reward model's scores, is wrong early in long answers, and with lambda below 1 these
learn from it more than from the outcome: answers collapse. How many generations the critic needs shows in
``value/explained_variance``; published is: until it settles.

Source: VC-PPO, "What's behind PPO's collapse in long-CoT?", arXiv 2503.01491 (from memory).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .ppo import Ppo


@dataclass(frozen=True)
class VcPpo(Ppo):
    """PPO with a pretrained critic and two lambdas."""

    lambda_actor: float = 0.95
    """GAE's lambda of the advantages."""
    value_warmup: int = 10
    """First generations in which only the value is learned."""

    name: ClassVar[str] = "vcppo"
