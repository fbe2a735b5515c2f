"""`sapo`: a soft gate in place of clipping.

With rho = exp(log pi - log pi_old), per token:

    loss = -(4 / tau) * sigmoid(tau * (rho - 1)) * A          tau = tau_pos where A > 0, tau_neg elsewhere

At rho = 1 the value is 2 / tau and the gradient along log pi is A, as without a gate; away from 1 it fades on both
sides, by 4 s (1 - s) rho with s = sigmoid(tau (rho - 1)), and never stops dead. A larger tau fades faster; negative
advantages fade faster by default, because what they push up are the many other words. Tokens shared by rows are exact:
positive and negative advantages are summed apart.

Source: Soft Adaptive Policy Optimization, arXiv 2511.20347. Values equal those of trl 1.16 for loss type sapo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import ConfigError
from .base import LossInputs, log_ratio
from .policy import PolicyLoss, PolicyTerm

# Shapes: M scored tokens of the pack


@dataclass(frozen=True)
class Sapo(PolicyLoss):
    """Sigmoid of the ratio times advantage."""

    tau_pos: float = 1.0
    """How fast tokens of positive advantage fade as their ratio leaves 1."""
    tau_neg: float = 1.05
    """The same for negative advantages."""

    name: ClassVar[str] = "sapo"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tau_pos > 0 or not self.tau_neg > 0:
            raise ConfigError(
                f"objective.tau_pos is {self.tau_pos:g} and objective.tau_neg {self.tau_neg:g}, but both must be above "
                "0; the published values are 1 and 1.05"
            )

    def policy_term(self, inputs: LossInputs) -> PolicyTerm:
        ratio_M = log_ratio(inputs).exp()
        gain_M = inputs.w_pos_M * _gate(ratio_M, self.tau_pos) + inputs.w_neg_M * _gate(ratio_M, self.tau_neg)
        return PolicyTerm(gain_M, ratio_M, {})


def _gate(ratio_M: Tensor, tau: float) -> Tensor:
    return torch.sigmoid(tau * (ratio_M - 1)) * (4 / tau)
