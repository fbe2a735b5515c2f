"""`clip`: the clipped policy-gradient loss of PPO and GRPO, with optional KL, entropy and imitation terms.

With rho = exp(log pi - log pi_old), per token:

    -( w_pos * min(rho, 1 + epsilon_high) + w_neg * max(rho, 1 - epsilon_low) )
    + kl * w_kl * k3            k3 = e^d - d - 1, d = log pi_ref - log pi;  times rho if bias_corrected_kl
    - entropy * w_ent * H
    - w_nll * log pi

w_pos and w_neg are sums over rows of the positive and of the negative weighted advantages. For one row this is PPO's
-min(rho A, clip(rho) A); for tokens shared by rows it is exactly the sum over the rows, which one summed advantage is
not. With ``delta`` (two-sided clipping) the w_neg factor is min(max(rho, 1 - epsilon_low), delta). With ``old:
recompute`` the first line is multiplied with the importance weight of ``base.py``; other KL estimates are in ``kl.py``.

Source: PPO, arXiv 1707.06347; GRPO, arXiv 2402.03300 (k3 KL); DAPO, arXiv 2503.14476 (two epsilons); INTELLECT-2,
arXiv 2505.07291 (delta). Values equal those of trl 1.16 for loss types grpo, dapo and dr_grpo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...errors import ConfigError
from .base import LossInputs, log_ratio, share
from .policy import PolicyLoss, PolicyTerm, check_epsilons

# Shapes: M scored tokens of the pack


@dataclass(frozen=True)
class Clip(PolicyLoss):
    """Clipped ratio times advantage."""

    epsilon_low: float = 0.2
    """A negative advantage stops acting where the ratio falls below 1 - epsilon_low."""
    epsilon_high: float = 0.2
    """A positive advantage stops acting where the ratio rises above 1 + epsilon_high; DAPO uses 0.28."""
    delta: float | None = None
    """Largest ratio that a negative advantage is multiplied with; none by default."""

    name: ClassVar[str] = "clip"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_epsilons(self.epsilon_low, self.epsilon_high)
        if self.delta is not None and not self.delta > 1 + self.epsilon_high:
            raise ConfigError(
                f"objective.delta is {self.delta:g} but must exceed 1 + epsilon_high = {1 + self.epsilon_high:g}; "
                "raise it, or leave it out"
            )

    def policy_term(self, inputs: LossInputs) -> PolicyTerm:
        ratio_M = log_ratio(inputs).exp()
        capped_M = ratio_M.clamp(max=1 + self.epsilon_high)
        floored_M = ratio_M.clamp(min=1 - self.epsilon_low, max=self.delta)
        metrics = {
            "policy/clipped_high": share((inputs.w_pos_M > 0) & (ratio_M > 1 + self.epsilon_high)),
            "policy/clipped_low": share((inputs.w_neg_M < 0) & (ratio_M < 1 - self.epsilon_low)),
        }
        return PolicyTerm(inputs.w_pos_M * capped_M + inputs.w_neg_M * floored_M, ratio_M, metrics)
