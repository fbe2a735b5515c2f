"""`clip`: the clipped policy-gradient loss of PPO and GRPO, with optional KL, entropy and imitation terms.

With rho = exp(log pi - log pi_old), per token:

    -( w_pos * min(rho, 1 + epsilon_high) + w_neg * max(rho, 1 - epsilon_low) )
    + kl * w_kl * k3            k3 = e^d - d - 1, d = log pi_ref - log pi;  times rho if bias_corrected_kl
    - entropy * w_ent * H
    - w_nll * log pi

w_pos and w_neg are sums over rows of the positive and of the negative weighted advantages. For one row this is PPO's
-min(rho A, clip(rho) A); for tokens shared by rows it is exactly the sum over the rows, which one summed advantage is
not. With ``delta`` (two-sided clipping) the w_neg factor is min(max(rho, 1 - epsilon_low), delta). With ``old:
recompute`` the first line is multiplied with the importance weight of ``base.py``.

Source: PPO, arXiv 1707.06347; GRPO, arXiv 2402.03300 (k3 KL); DAPO, arXiv 2503.14476 (two epsilons); INTELLECT-2,
arXiv 2505.07291 (delta). Values equal those of trl 1.16 for loss types grpo, dapo and dr_grpo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ...errors import ConfigError
from ..rows import Normalizer
from .base import (
    Importance,
    LossInputs,
    LossOutputs,
    Old,
    check_importance_cap,
    common_metrics,
    correction,
    correction_metrics,
    k3,
    log_ratio,
    share,
    to_floats,
)

# Shapes: M scored tokens of the pack


@dataclass(frozen=True)
class Clip:
    """Clipped ratio times advantage."""

    epsilon_low: float = 0.2
    """A negative advantage stops acting where the ratio falls below 1 - epsilon_low."""
    epsilon_high: float = 0.2
    """A positive advantage stops acting where the ratio rises above 1 + epsilon_high; DAPO uses 0.28."""
    delta: float | None = None
    """Largest ratio that a negative advantage is multiplied with; none by default."""
    normalizer: Normalizer = "row_mean"
    """What a row is divided by: its own length, the tokens of the update, or a constant."""
    kl: float = 0.0
    """Weight of the KL divergence to the reference model (beta); 0 loads no reference."""
    bias_corrected_kl: bool = True
    """Multiply the KL estimate by the ratio, which makes its gradient unbiased off-policy."""
    entropy: float = 0.0
    """Weight of the entropy bonus."""
    old: Old = "engine"
    """Log-probs of the sampling policy: ``engine`` as reported while sampling, ``recompute`` scored by the trainer."""
    importance: Importance = "token"
    """With ``old: recompute``, weight tokens by trainer over engine probability; ``none`` leaves the difference."""
    importance_cap: float = 2.0
    """Largest such weight."""

    name: ClassVar[str] = "clip"
    packs: ClassVar[Literal["exact", "rows"]] = "exact"

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon_low <= 1 or not self.epsilon_high >= 0:
            raise ConfigError(
                f"objective.epsilon_low is {self.epsilon_low:g} and epsilon_high {self.epsilon_high:g}, but the first "
                "must lie between 0 and 1 and the second be 0 or more; the usual values are 0.2 and 0.2 to 0.28"
            )
        if self.delta is not None and not self.delta > 1 + self.epsilon_high:
            raise ConfigError(
                f"objective.delta is {self.delta:g} but must exceed 1 + epsilon_high = {1 + self.epsilon_high:g}; "
                "raise it, or leave it out"
            )
        check_importance_cap(self.importance_cap)
        if not self.kl >= 0:
            raise ConfigError(f"objective.kl is {self.kl:g} but must be 0 or more; 0 switches the term off")

    @property
    def touches_all_tokens(self) -> bool:
        return self.kl != 0 or self.entropy != 0

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        ratio_M = log_ratio(inputs).exp()
        capped_M = ratio_M.clamp(max=1 + self.epsilon_high)
        floored_M = ratio_M.clamp(min=1 - self.epsilon_low, max=self.delta)
        policy_M = inputs.w_pos_M * capped_M + inputs.w_neg_M * floored_M
        weight_M = correction(inputs, self.old, self.importance, self.importance_cap)
        if weight_M is not None:
            policy_M = policy_M * weight_M
        loss_M = -policy_M - inputs.w_nll_M * inputs.log_probs_M
        metrics = common_metrics(inputs, ratio_M) | {
            "policy/clipped_high": share((inputs.w_pos_M > 0) & (ratio_M > 1 + self.epsilon_high)),
            "policy/clipped_low": share((inputs.w_neg_M < 0) & (ratio_M < 1 - self.epsilon_low)),
            **correction_metrics(weight_M, self.importance_cap),
        }
        # Terms that are switched off are left out, not multiplied by 0: their inputs may be NaN.
        if self.kl:
            kl_M = k3(inputs.log_probs_M, inputs.ref_logp_M)
            loss_M = loss_M + self.kl * inputs.w_kl_M * (kl_M * ratio_M if self.bias_corrected_kl else kl_M)
            metrics["policy/kl_reference"] = kl_M.detach().sum() / max(1, len(kl_M))
        if self.entropy:
            loss_M = loss_M - self.entropy * inputs.w_ent_M * inputs.entropy_M
        return LossOutputs(torch.sum(loss_M), to_floats(metrics))
