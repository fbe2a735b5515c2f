"""`ppo`: proximal policy optimisation with a critic; every token has its own advantage.

A value head on the policy's last hidden state estimates the return before each token. Before the first update of a
generation, per row with one reward r (the rollout's) at its last trained token:

    A_t  = GAE of gamma and lambda_actor         or lambda = 1 - 1 / (length_adaptive * tokens of the row)
    R_t  = GAE of gamma and lambda_critic + V_t
    A_t  = (A_t - mean) / (std + 1e-8)           over all trained tokens of the generation, with ``whiten``

and in every update the loss of `clip` with these A_t, plus the value loss, both times the row weight:

    value_coef * max( (V - R)^2, (clip(V, V_old +- value_clip) - R)^2 ) / 2

Formulas: ``gae.py``. Rewards are not compared within groups: ``credit`` has no effect. A row is an episode of its own:
chunks of one thought all end in the thought's reward. Forced tokens between trained ones take no time. An answer that
is better than was expected of its prompt is rewarded in a group of right answers too: no filter is needed.

A lambda_actor below 1 (0.95 is usual elsewhere) hides the outcome from early tokens of long answers behind a critic
that is still wrong about them, and answers collapse to short ones: the default is 1. `vcppo` and `vapo` are this class
with the settings of their papers.

``value_warmup`` generations train the critic alone. The head reads hidden states as constants (``value_trains: head``)
unless it may move the whole policy. A checkpoint holds the head; the finished model does not.

Source: PPO, arXiv 1707.06347; GAE, arXiv 1506.02438; a critic with lambda 1 for reasoning: Open-Reasoner-Zero, arXiv
2503.24290 (from memory).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from ...errors import ConfigError
from .base import LossInputs, LossOutputs, share
from .clip import Clip
from .gae import value_loss

# Shapes: M scored tokens of the pack


@dataclass(frozen=True)
class Ppo(Clip):
    """Clipped ratio times the advantage that a value head estimates."""

    gamma: float = 1.0
    """Discount per token; below 1 it is a price of length."""
    lambda_actor: float = 1.0
    """GAE's lambda of the advantages."""
    lambda_critic: float = 1.0
    """GAE's lambda of what the values learn; 1 is the outcome itself."""
    length_adaptive: float | None = None
    """alpha of VAPO's lambda by length, in place of lambda_actor; VAPO uses 0.05."""
    whiten: bool = True
    """Bring the advantages of a generation to mean 0 and standard deviation 1."""
    value_coef: float = 1.0
    """Weight of the value loss; Adam makes it matter with ``value_trains: all`` only."""
    value_clip: float | None = 0.2
    """How far a value may move from the one before the generation's first update before its gradient stops."""
    value_width: int = 0
    """Units of a hidden layer of the value head; 0 makes it linear."""
    value_speed: float = 10.0
    """Factor on the head's output: with Adam, values learn about that many times faster than the policy."""
    value_trains: Literal["head", "all"] = "head"
    """What the value loss trains: its head alone, or the policy's weights too."""
    value_warmup: int = 0
    """First generations in which only the value is learned."""

    name: ClassVar[str] = "ppo"
    packs: ClassVar[Literal["exact", "rows"]] = "rows"
    critic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("gamma", "lambda_actor", "lambda_critic"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(
                    f"objective.{key} is {getattr(self, key):g} but must lie between 0 and 1; 1 is the usual value"
                )
        if self.length_adaptive is not None and not self.length_adaptive > 0:
            raise ConfigError(
                f"objective.length_adaptive is {self.length_adaptive:g} but must be above 0; VAPO uses 0.05, and null "
                "takes objective.lambda_actor for all lengths"
            )
        if not self.value_coef > 0 or not self.value_speed > 0:
            raise ConfigError(
                f"objective.value_coef is {self.value_coef:g} and objective.value_speed {self.value_speed:g}, but both "
                "must be above 0: values that learn nothing give no advantages"
            )
        if self.value_clip is not None and not self.value_clip > 0:
            raise ConfigError(
                f"objective.value_clip is {self.value_clip:g} but must be above 0; null switches the clipping off"
            )
        if self.value_width < 0 or self.value_warmup < 0:
            raise ConfigError(
                f"objective.value_width is {self.value_width} and objective.value_warmup {self.value_warmup}, but both "
                "must be 0 or more"
            )

    @property
    def touches_all_tokens(self) -> bool:
        return True

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        assert inputs.value_M is not None and inputs.old_value_M is not None and inputs.return_M is not None
        # A KL term takes the same row weights from w_ent, which is 0 while only the value is learned.
        outputs = super().__call__(replace(inputs, w_kl_M=inputs.w_ent_M))
        loss_M, clipped_M = value_loss(inputs.value_M, inputs.old_value_M, inputs.return_M, self.value_clip)
        loss = outputs.loss + self.value_coef * torch.sum(inputs.w_kl_M * loss_M)
        mean = float(loss_M.detach().sum()) / max(1, len(loss_M))
        return LossOutputs(loss, outputs.metrics | {"value/loss": mean, "value/clipped": float(share(clipped_M))})
