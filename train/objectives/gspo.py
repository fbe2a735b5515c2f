"""`gspo`: one ratio per answer, the geometric mean of its tokens' ratios, clipped as a whole.

With l_t = log pi - log pi_old over the n trained tokens of a row:

    s    = exp((1 / n) sum_t l_t)
    loss = -( w_pos * min(s, 1 + epsilon_high) + w_neg * max(s, 1 - epsilon_low) )      for each of its tokens

Bounds are narrow, because a mean over hundreds of tokens moves little. With ``token_credit`` the gradient of a token
is that of sg(s) * pi / sg(pi) (GSPO-token): values are the same, and so is the gradient of a row with one advantage, a
KL term aside; where tokens have advantages of their own, it keeps them, while s itself would spread their mean over the
row.

A row is the path to one leaf; its tokens that another row of the rollout trains are not in its mean. Of a row that
is cut, what is left counts; a token without an old log-prob counts as l = 0.

Source: Group Sequence Policy Optimization, arXiv 2507.18071 (epsilons from memory). Without ``token_credit`` values and
gradients equal those of trl 1.16 with importance_sampling_level "sequence", its KL term included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from .base import LossInputs, log_ratio, share
from .policy import PolicyLoss, PolicyTerm, check_epsilons

# Shapes: M scored tokens of the pack, B rows


@dataclass(frozen=True)
class Gspo(PolicyLoss):
    """Clipped sequence ratio times advantage."""

    epsilon_low: float = 3e-4
    """A negative advantage stops acting where the row's ratio falls below 1 - epsilon_low."""
    epsilon_high: float = 4e-4
    """A positive advantage stops acting where the row's ratio rises above 1 + epsilon_high."""
    token_credit: bool = True
    """Let each token keep its own advantage (GSPO-token); it changes nothing where a row has one advantage."""

    name: ClassVar[str] = "gspo"
    packs: ClassVar[Literal["exact", "rows"]] = "rows"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_epsilons(self.epsilon_low, self.epsilon_high)

    def policy_term(self, inputs: LossInputs) -> PolicyTerm:
        assert inputs.row_M is not None, "gspo needs the row of each token"
        log_ratio_M, logp_M = log_ratio(inputs), inputs.log_probs_M
        rows_B, row_M = torch.unique(inputs.row_M, return_inverse=True)
        sum_B, count_B = (log_ratio_M.new_zeros(len(rows_B)) for _ in range(2))
        mean_B = sum_B.index_add(0, row_M, log_ratio_M) / count_B.index_add(0, row_M, torch.ones_like(log_ratio_M))
        log_s_M = mean_B[row_M]
        ratio_M = (log_s_M.detach() + logp_M - logp_M.detach() if self.token_credit else log_s_M).exp()
        capped_M, floored_M = ratio_M.clamp(max=1 + self.epsilon_high), ratio_M.clamp(min=1 - self.epsilon_low)
        metrics = {
            "policy/clipped_high": share((inputs.w_pos_M > 0) & (ratio_M > 1 + self.epsilon_high)),
            "policy/clipped_low": share((inputs.w_neg_M < 0) & (ratio_M < 1 - self.epsilon_low)),
        }
        return PolicyTerm(inputs.w_pos_M * capped_M + inputs.w_neg_M * floored_M, ratio_M, metrics)
