"""The slow twin of ``merge_lse``: plain torch, in the type of its inputs, differentiable by autograd.

L = log sum_p exp(L_p)        o = sum_p exp(L_p - L) o_p
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Shapes: ... any leading axes, D head width, P parts


def merge_lse_reference(o1: Tensor, lse1: Tensor, o2: Tensor, lse2: Tensor) -> tuple[Tensor, Tensor]:
    """``(o, lse)`` of two parts; ``o1, o2 (..., D)``, ``lse1, lse2 (...)`` in nats."""
    return merge_parts(torch.stack([o1, o2]), torch.stack([lse1, lse2]))


def merge_parts(o_P: Tensor, lse_P: Tensor) -> tuple[Tensor, Tensor]:
    """The same of P parts along the first axis; a part without keys has ``lse`` -inf, whatever its ``o``."""
    top = lse_P.detach().amax(0)
    # -inf - -inf is NaN, so where no part has a key the maximum is taken as 0: all weights are then exp(-inf) = 0.
    top = torch.where(top == -math.inf, torch.zeros_like(top), top)
    weight_P = (lse_P - top).exp()
    total = weight_P.sum(0)
    empty = total == 0
    safe = torch.where(empty, torch.ones_like(total), total)
    lse = torch.where(empty, torch.full_like(total, -math.inf), top + safe.log())
    share_P = (weight_P / safe)[..., None]
    used_P = torch.where(share_P > 0, o_P.to(share_P.dtype), torch.zeros_like(share_P))
    return (share_P * used_P).sum(0).to(o_P.dtype), lse
