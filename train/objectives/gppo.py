"""`gppo`: clipping that keeps the gradient of clipped tokens, and imitation of right answers.

With rho = exp(log pi - log pi_old), A the advantage and sg() a constant, per token:

    gain = beta_high * (1 + epsilon_high) * rho / sg(rho) * A     where A > 0 and rho > 1 + epsilon_high
           beta_low  * (1 - epsilon_low)  * rho / sg(rho) * A     where A < 0 and rho < 1 - epsilon_low
           dual_clip * A, a constant                              where A < 0 and rho > dual_clip
           rho * A                                                elsewhere
    loss = -gain, and + nll * mean over the tokens of right answers of -log pi

With both betas 1, as published first, values are those of `clip` and only the gradients differ: along log pi they are
A (1 + epsilon_high) and A (1 - epsilon_low) where `clip` has 0. The authors found later that a large gradient on the
low side costs exploration: CE-GPPO has beta_low 0.75, and they mention 0.25 and 0.5. The betas multiply a clipped
token's value and gradient; the regions stay those of the unscaled bounds.

The imitation term is a mean over the whole update; the published code takes it within a micro-batch. A group of right
answers only has no advantage but is imitated. Before the first update of a generation nothing is clipped.

Source: Klear-Reasoner, arXiv 2508.07629, and its code, suu990901/KlearReasoner verl/trainer/ppo/core_algos.py
(compute_gppo_loss) and verl/workers/actor/dp_actor.py; betas: CE-GPPO, arXiv 2509.20712, and its code,
Kwai-Klear/CE-GPPO (compute_gppo_loss_general_beta).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...errors import ConfigError
from ..rows import Normalizer
from .base import LossInputs, log_ratio, share
from .policy import PolicyLoss, PolicyTerm, check_epsilons

# Shapes: M scored tokens of the pack


@dataclass(frozen=True)
class Gppo(PolicyLoss):
    """Clipped in value, alive in gradient."""

    epsilon_low: float = 0.2
    """Below a ratio of 1 - epsilon_low, a negative advantage acts as if the ratio were that."""
    epsilon_high: float = 0.28
    """Above a ratio of 1 + epsilon_high, a positive advantage acts as if the ratio were that."""
    beta_low: float = 1.0
    """Share of its gradient that a token below the lower bound keeps; CE-GPPO uses 0.75."""
    beta_high: float = 1.0
    """Share of its gradient that a token above the upper bound keeps."""
    dual_clip: float | None = 10.0
    """Largest ratio that a negative advantage is multiplied with; beyond it there is no gradient."""
    normalizer: Normalizer = "token_mean"
    """What a row is divided by: the tokens of the update, its own length, or a constant."""
    nll: float = 0.1
    """Weight of the negative log-likelihood of right answers, a mean over their tokens; no advantage is in it."""

    name: ClassVar[str] = "gppo"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_epsilons(self.epsilon_low, self.epsilon_high)
        if not self.beta_low >= 0 or not self.beta_high >= 0:
            raise ConfigError(
                f"objective.beta_low is {self.beta_low:g} and objective.beta_high {self.beta_high:g}, but both must be "
                "0 or more; 1 keeps the gradient of clipped tokens whole, 0 is the clipping of objective clip"
            )
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise ConfigError(
                f"objective.dual_clip is {self.dual_clip:g} but must exceed 1, the ratio before the first update; the "
                "published recipes use 10, and null switches it off"
            )

    def check(self, updates_per_batch: int, epochs: int) -> None:
        """Raise ``ConfigError`` where it would be the same as an unclipped loss."""
        if updates_per_batch * epochs == 1 and not self.nll:
            raise ConfigError(
                "objective gppo with nll 0 has no effect with optim.updates_per_batch x optim.epochs = 1: it differs "
                "from objective.name=clip on clipped tokens only, and before the first update nothing is clipped; "
                "raise optim.updates_per_batch, or use objective.name=clip"
            )

    def policy_term(self, inputs: LossInputs) -> PolicyTerm:
        ratio_M = log_ratio(inputs).exp()
        # 1 in value, and 1 along log pi, also where the log-ratio is too large for the exponential.
        alive_M = (inputs.log_probs_M - inputs.log_probs_M.detach()).exp()
        high_M, low_M = ratio_M > 1 + self.epsilon_high, ratio_M < 1 - self.epsilon_low
        capped_M = torch.where(high_M, self.beta_high * (1 + self.epsilon_high) * alive_M, ratio_M)
        floored_M = torch.where(low_M, self.beta_low * (1 - self.epsilon_low) * alive_M, ratio_M)
        floored_M = floored_M.clamp(max=self.dual_clip) if self.dual_clip is not None else floored_M
        metrics = {
            "policy/clipped_high": share((inputs.w_pos_M > 0) & high_M),
            "policy/clipped_low": share((inputs.w_neg_M < 0) & low_M),
        }
        return PolicyTerm(inputs.w_pos_M * capped_M + inputs.w_neg_M * floored_M, ratio_M, metrics)
