"""`kl_cov`: policy gradient without clipping, with a penalty on the few tokens that would collapse the entropy.

Over the M trained tokens of a pack, with A_j the advantage of token j's row:

    cov_j  = (A_j - mean A) * (log pi_j - mean log pi)              detached
    K      = max(1, floor(M * ratio)) tokens with the largest cov
    loss_j = -A_j * rho_j  [+ coef * |log pi_j - log pi_old,j|  for the K tokens]

times the row weight, and the first term times the importance weight of ``base.py``; ``kl`` adds the bias-corrected k3
term of ``clip.py``. There is no clipping: keep the learning rate and the number of updates small. The penalty is to the
policy that sampled and its gradient at equality is 0, so with one update per generation it does nothing
(``KlCov.check``). The K tokens are chosen within a pack, as the published code chooses them within a micro-batch: the
result depends on ``optim.micro_batch_tokens``. Rows without advantage take part in the choice.

Source: The Entropy Mechanism of RL for reasoning language models, arXiv 2505.22617; defaults as in Anti-Length Shift,
arXiv 2601.03969, and its code, U-rara/DOT verl/trainer/ppo/core_algos.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

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
    k3,
    log_ratio,
    to_floats,
)

# Shapes: M scored tokens of the pack, K penalised tokens


@dataclass(frozen=True)
class KlCov:
    """Ratio times advantage, and |log pi - log pi_old| on the tokens of highest covariance."""

    ratio: float = 0.002
    """Share of tokens that are penalised, at least one per pack."""
    coef: float = 1.0
    """Weight of the penalty."""
    normalizer: Normalizer = "row_mean"
    """What a row is divided by: its own length, the tokens of the update, or a constant."""
    kl: float = 0.0
    """Weight of the KL divergence to the reference model (beta); 0 loads no reference."""
    old: Old = "engine"
    """Log-probs of the sampling policy: ``engine`` as reported while sampling, ``recompute`` scored by the trainer."""
    importance: Importance = "token"
    """With ``old: recompute``, weight tokens by trainer over engine probability; ``none`` leaves the difference."""
    importance_cap: float = 2.0
    """Largest such weight."""

    name: ClassVar[str] = "kl_cov"
    packs: ClassVar[Literal["exact", "rows"]] = "rows"
    touches_all_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ConfigError(
                f"objective.ratio is {self.ratio:g} but is a share of tokens, above 0 and at most 1; the usual value "
                "is 0.002"
            )
        if not self.coef >= 0 or not self.kl >= 0:
            raise ConfigError(
                f"objective.coef is {self.coef:g} and objective.kl is {self.kl:g}, but both must be 0 or more"
            )
        check_importance_cap(self.importance_cap)

    def check(self, updates_per_batch: int, epochs: int) -> None:
        """Raise ``ConfigError`` where the penalty could have no effect."""
        if updates_per_batch * epochs == 1:
            raise ConfigError(
                "objective kl_cov has no effect with optim.updates_per_batch x optim.epochs = 1: its penalty is the "
                "distance to the policy that sampled, whose gradient is zero until the first update; raise "
                "optim.updates_per_batch, or use objective.name=clip"
            )

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        log_ratio_M = log_ratio(inputs)
        ratio_M = log_ratio_M.exp()
        policy_M = (inputs.w_pos_M + inputs.w_neg_M) * ratio_M
        weight_M = correction(inputs, self.old, self.importance, self.importance_cap)
        if weight_M is not None:
            policy_M = policy_M * weight_M
        loss_M = -policy_M - inputs.w_nll_M * inputs.log_probs_M
        chosen_K = self.highest_covariance(inputs)
        penalty_K = log_ratio_M[chosen_K].abs()
        loss = loss_M.sum() + self.coef * (inputs.w_kl_M[chosen_K] * penalty_K).sum()
        metrics = common_metrics(inputs, ratio_M) | correction_metrics(weight_M, self.importance_cap)
        metrics["policy/kl_cov_penalty"] = penalty_K.detach().sum() / max(1, len(chosen_K))
        if self.kl:
            kl_M = k3(inputs.log_probs_M, inputs.ref_logp_M)
            loss = loss + self.kl * (inputs.w_kl_M * kl_M * ratio_M).sum()
            metrics["policy/kl_reference"] = kl_M.detach().sum() / max(1, len(kl_M))
        return LossOutputs(loss, to_floats(metrics))

    def highest_covariance(self, inputs: LossInputs) -> Tensor:
        """Indices of the penalised tokens, int64 (K,)."""
        log_probs_M = inputs.log_probs_M.detach()
        # w_kl is the weight of the token's only row, so this is the row's advantage.
        advantage_M = (inputs.w_pos_M + inputs.w_neg_M) / inputs.w_kl_M
        covariance_M = (advantage_M - advantage_M.mean()) * (log_probs_M - log_probs_M.mean())
        count = min(len(log_probs_M), max(1, int(len(log_probs_M) * self.ratio)))
        return torch.topk(covariance_M, count).indices
