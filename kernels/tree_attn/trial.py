"""The Triton kernels tried on this GPU against the formulas, before they are used (``dispatch.fails_its_trial``).

    P = softmax(scale q k^T)    o = P v    dP = dO v^T    dS = P (dP - sum_j P dP)
    dq = scale dS k             dk = scale dS^T q         dv = P^T dO

Forward and backward, on a tree that is long enough for the keys' gradients to be summed in parts. Written out without
autograd, because a layer that is computed again in the backward pass counts what autograd saves.

Shapes: N tokens, g query heads of one key head, d head size
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..dispatch import distance
from ..tree_layout import TreeLayout
from . import fused

TRIAL = TreeLayout.of_nodes(parent_M=[-1, 0, 1, 1, 0, -1], length_M=[150, 900, 400, 333, 400, 70])


@torch.no_grad()
def error(q: Tensor, k: Tensor) -> float:
    """Relative distance of the kernels' output and gradients, for heads and numbers as in ``q`` and ``k``."""
    layout, group, dim = TRIAL, q.shape[1] // k.shape[1], q.shape[2]
    generator = torch.Generator().manual_seed(0)
    shapes = [(len(layout), heads, dim) for heads in (group, 1, 1, group)]
    q, k, v, dout = (torch.randn(shape, generator=generator).to(q.device, q.dtype) for shape in shapes)
    found = fused.out_and_gradients(q, k, v, dout, layout, dim**-0.5)
    return distance(found, _formulas(q, k, v, dout, layout, dim**-0.5))


def _formulas(q: Tensor, k: Tensor, v: Tensor, dout: Tensor, layout: TreeLayout, scale: float) -> list[Tensor]:
    """Output, dq, dk and dv in float64, a head at a time."""
    q, k, v, dout = (x.double() for x in (q, k, v, dout))
    seen = torch.from_numpy(layout.mask()).to(q.device)
    out, dq, dk, dv = (torch.zeros_like(x) for x in (q, q, k, v))
    for head in range(q.shape[1]):
        scores = (scale * q[:, head] @ k[:, 0].T).masked_fill_(~seen, -torch.inf)
        weights = scores.softmax(-1)
        out[:, head] = weights @ v[:, 0]
        dscores = dout[:, head] @ v[:, 0].T
        dscores = weights * (dscores - (weights * dscores).sum(-1, keepdim=True))
        dq[:, head] = scale * dscores @ k[:, 0]
        dk[:, 0] += scale * dscores.T @ q[:, head]
        dv[:, 0] += weights.T @ dout[:, head]
    return [out, dq, dk, dv]
