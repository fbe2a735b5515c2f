"""What all policy losses share: everything but the policy term itself.

A loss says what one token gains (``policy_term``); the sum of the pack is then

    - weight * gain + kl * w_kl * KL - entropy * w_ent * H - w_nll * log pi

with the importance weight of ``base.py`` and the KL estimate of ``kl.py``. Terms that are switched off are left out,
not multiplied by 0: their inputs may be NaN. ``nll`` imitates right answers: ``w_nll`` is nll / (trained tokens of all
right rollouts of the update) on those tokens and 0 elsewhere, so the term is ``nll`` times a mean over tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

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
    log_ratio,
    to_floats,
)
from .kl import KlEstimator, check_estimator, corrected, kl_estimate

# Shapes: M scored tokens of the pack


class PolicyTerm(NamedTuple):
    """What each token gains, and what belongs to it."""

    gain_M: Tensor
    """To be maximised; row weights and advantages are in it."""
    ratio_M: Tensor
    """The probability ratio that a KL estimate is corrected with, with gradient."""
    metrics: dict[str, Tensor]


@dataclass(frozen=True)
class PolicyLoss:
    """Base of the objectives."""

    normalizer: Normalizer = "row_mean"
    """What a row is divided by: its own length, the tokens of the update, or a constant."""
    kl: float = 0.0
    """Weight of the KL divergence to the reference model (beta); 0 loads no reference."""
    kl_estimator: KlEstimator = "k3"
    """How that is estimated from the sampled token: ``k1``, ``k2`` or ``k3``."""
    bias_corrected_kl: bool = True
    """Multiply the KL estimate by the ratio, which makes its gradient unbiased off-policy."""
    entropy: float = 0.0
    """Weight of the entropy bonus."""
    nll: float = 0.0
    """Weight of the negative log-likelihood of right answers, a mean over their tokens; no advantage is in it."""
    old: Old = "engine"
    """Log-probs of the sampling policy: ``engine`` as reported while sampling, ``recompute`` scored by the trainer."""
    importance: Importance = "token"
    """With ``old: recompute``, weight tokens by trainer over engine probability; ``none`` leaves the difference."""
    importance_cap: float = 2.0
    """Largest such weight."""

    packs: ClassVar[Literal["exact", "rows"]] = "exact"
    critic: ClassVar[bool] = False
    """Whether it learns values: the policy then has a value head, and advantages come from it."""

    def __post_init__(self) -> None:
        check_importance_cap(self.importance_cap)
        for key, weight in {"kl": self.kl, "nll": self.nll}.items():
            if not weight >= 0:
                raise ConfigError(f"objective.{key} is {weight:g} but must be 0 or more; 0 switches the term off")
        check_estimator(self.kl_estimator, self.bias_corrected_kl)

    @property
    def touches_all_tokens(self) -> bool:
        return self.kl != 0 or self.entropy != 0

    def policy_term(self, inputs: LossInputs) -> PolicyTerm:
        """What the loss is named after."""
        raise NotImplementedError

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        gain_M, ratio_M, own_metrics = self.policy_term(inputs)
        weight_M = correction(inputs, self.old, self.importance, self.importance_cap)
        if weight_M is not None:
            gain_M = gain_M * weight_M
        loss_M = -gain_M - inputs.w_nll_M * inputs.log_probs_M
        metrics = common_metrics(inputs, log_ratio(inputs).exp()) | own_metrics
        metrics |= correction_metrics(weight_M, self.importance_cap)
        if self.kl:
            kl_M = kl_estimate(self.kl_estimator, inputs.log_probs_M, inputs.ref_logp_M)
            term_M = corrected(self.kl_estimator, kl_M, ratio_M) if self.bias_corrected_kl else kl_M
            loss_M = loss_M + self.kl * inputs.w_kl_M * term_M
            metrics["policy/kl_reference"] = kl_M.detach().sum() / max(1, len(kl_M))
        if self.entropy:
            loss_M = loss_M - self.entropy * inputs.w_ent_M * inputs.entropy_M
        if self.nll:
            metrics["policy/imitated"] = (inputs.w_nll_M > 0).double().sum() / max(1, len(loss_M))
        return LossOutputs(torch.sum(loss_M), to_floats(metrics))


def check_epsilons(low: float, high: float) -> None:
    """Raise ``ConfigError`` for clipping bounds that are none."""
    if not 0 <= low <= 1 or not high >= 0:
        raise ConfigError(
            f"objective.epsilon_low is {low:g} and epsilon_high {high:g}, but the first must lie between 0 and 1 and "
            "the second be 0 or more; the usual values are 0.2 and 0.2 to 0.28"
        )
