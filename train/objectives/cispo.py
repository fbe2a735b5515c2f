"""`cispo`: the importance weight is capped, never the gradient.

With rho = exp(log pi - log pi_old) and sg() a constant, per token:

    loss = -sg(min(rho, cap)) * A * log pi

Every token keeps a gradient, A min(rho, cap) along log pi, whatever its ratio; there is no lower bound. ``cap`` is the
largest weight itself, not a distance from 1: below 1 it would shrink every token's step. The value of the loss means
nothing by itself, because log pi is in it.

Source: MiniMax-M1, arXiv 2506.13585; cap of 5 and the name eps_max: ScaleRL, arXiv 2510.13786. Values equal those of
trl 1.16 for loss type cispo with epsilon_high = cap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...errors import ConfigError
from ..rows import Normalizer
from .base import LossInputs, log_ratio, share
from .policy import PolicyLoss, PolicyTerm

# Shapes: M scored tokens of the pack


@dataclass(frozen=True)
class Cispo(PolicyLoss):
    """Capped ratio, as a constant, times advantage times log-prob."""

    cap: float = 5.0
    """Largest weight of a token; trl calls it epsilon_high."""
    normalizer: Normalizer = "token_mean"
    """What a row is divided by: the tokens of the update, its own length, or a constant."""

    name: ClassVar[str] = "cispo"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.cap >= 1:
            raise ConfigError(
                f"objective.cap is {self.cap:g} but must be at least 1: it is the largest weight itself, not its "
                "distance from 1, and below 1 it shrinks every token; the usual value is 5"
            )

    def policy_term(self, inputs: LossInputs) -> PolicyTerm:
        ratio_M = log_ratio(inputs).exp()
        weighted_M = inputs.w_pos_M + inputs.w_neg_M
        gain_M = ratio_M.detach().clamp(max=self.cap) * weighted_M * inputs.log_probs_M
        metrics = {"policy/clipped_high": share((weighted_M != 0) & (ratio_M > self.cap))}
        return PolicyTerm(gain_M, ratio_M, metrics)
