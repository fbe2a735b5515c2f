"""`kl_cov`: policy gradient without clipping, with a penalty on the few tokens that would collapse the entropy.

Over the M trained tokens of a pack, with A_j the advantage of token j:

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
from .base import LossInputs, LossOutputs, log_ratio
from .policy import PolicyLoss, PolicyTerm

# Shapes: M scored tokens of the pack, K penalised tokens


@dataclass(frozen=True)
class KlCov(PolicyLoss):
    """Ratio times advantage, and |log pi - log pi_old| on the tokens of highest covariance."""

    ratio: float = 0.002
    """Share of tokens that are penalised, at least one per pack."""
    coef: float = 1.0
    """Weight of the penalty."""

    name: ClassVar[str] = "kl_cov"
    packs: ClassVar[Literal["exact", "rows"]] = "rows"

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ConfigError(
                f"objective.ratio is {self.ratio:g} but is a share of tokens, above 0 and at most 1; the usual value "
                "is 0.002"
            )
        if not self.coef >= 0:
            raise ConfigError(f"objective.coef is {self.coef:g} but must be 0 or more; DOT uses 1")
        super().__post_init__()

    @property
    def touches_all_tokens(self) -> bool:
        return True

    def check(self, updates_per_batch: int, epochs: int) -> None:
        """Raise ``ConfigError`` where the penalty could have no effect."""
        if updates_per_batch * epochs == 1:
            raise ConfigError(
                "objective kl_cov has no effect with optim.updates_per_batch x optim.epochs = 1: its penalty is the "
                "distance to the policy that sampled, whose gradient is zero until the first update; raise "
                "optim.updates_per_batch, or use objective.name=clip"
            )

    def policy_term(self, inputs: LossInputs) -> PolicyTerm:
        ratio_M = log_ratio(inputs).exp()
        return PolicyTerm((inputs.w_pos_M + inputs.w_neg_M) * ratio_M, ratio_M, {})

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        outputs = super().__call__(inputs)
        chosen_K = self.highest_covariance(inputs)
        penalty_K = log_ratio(inputs)[chosen_K].abs()
        loss = outputs.loss + self.coef * (inputs.w_kl_M[chosen_K] * penalty_K).sum()
        mean = float(penalty_K.detach().sum()) / max(1, len(chosen_K))
        return LossOutputs(loss, outputs.metrics | {"policy/kl_cov_penalty": mean})

    def highest_covariance(self, inputs: LossInputs) -> Tensor:
        """Indices of the penalised tokens, int64 (K,)."""
        covariance_M = covariance(inputs)
        count = min(len(covariance_M), max(1, int(len(covariance_M) * self.ratio)))
        return torch.topk(covariance_M, count).indices


def covariance(inputs: LossInputs) -> Tensor:
    """Each token's share in the covariance of advantage and log-prob over the pack, constant (M,)."""
    log_probs_M = inputs.log_probs_M.detach()
    # w_kl is the weight of the token's only row, so this is its advantage without the weight.
    advantage_M = (inputs.w_pos_M + inputs.w_neg_M) / inputs.w_kl_M
    return (advantage_M - advantage_M.mean()) * (log_probs_M - log_probs_M.mean())
