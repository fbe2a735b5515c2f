"""What a loss is computed from, of a few tokens given by hand, and its value and gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from laconic.train.objectives import LossInputs

F64 = torch.float64
NAN = math.nan


def inputs_of(
    logp,
    old,
    *,
    pos=0.0,
    neg=0.0,
    ref=NAN,
    kl=1.0,
    ent=1.0,
    nll=0.0,
    entropy=0.0,
    row=None,
    value=0.0,
    old_value=0.0,
    returns=0.0,
) -> LossInputs:
    """Scalars are spread over all tokens; log-probs, entropy and value carry gradients; each token is a row."""
    logp_M = torch.as_tensor(logp, dtype=F64).reshape(-1)

    def spread(value) -> Tensor:
        return torch.as_tensor(value, dtype=F64).expand_as(logp_M).clone()

    return LossInputs(
        logp_M.clone().requires_grad_(), spread(entropy).requires_grad_(), spread(old), spread(ref), spread(pos),
        spread(neg), spread(kl), spread(ent), spread(nll), None, torch.as_tensor(row or range(len(logp_M))),
        spread(value).requires_grad_(), spread(old_value), spread(returns),
    )  # fmt: skip


def value_and_gradient(objective, inputs) -> tuple[float, list[float]]:
    loss = objective(inputs).loss
    (gradient_M,) = torch.autograd.grad(loss, inputs.log_probs_M)
    return loss.item(), gradient_M.tolist()
