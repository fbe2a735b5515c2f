"""Tree attention in plain torch: the result that every other implementation has to give.

    S = scale * q k^T        -inf where the query doesn't see the key
    P = softmax(S)
    o = P v,  lse = log sum_j exp(S_j)        natural logarithm

Half-precision operands are computed in float32, under autocast too; float64 stays float64.

Shapes: N tokens, nq query heads, nkv key heads, g = nq / nkv, d head size
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..tree_layout import TreeLayout


def tree_attention(q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, scale: float) -> Tensor:
    """See :func:`laconic.kernels.tree_attn.tree_attention`."""
    return with_lse(q, k, v, layout, scale)[0]


def with_lse(q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, scale: float) -> tuple[Tensor, Tensor]:
    """Output (N, nq, d) in the dtype of ``q``, and log-sum-exp (nq, N) in float32 or float64."""
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    group = q.shape[1] // k.shape[1]
    mask = torch.from_numpy(layout.mask()).to(q.device)
    keys, values = (x.to(dtype).repeat_interleave(group, dim=1) for x in (k, v))
    with torch.autocast(q.device.type, enabled=False):
        scores = scale * torch.einsum("nhd,mhd->hnm", q.to(dtype), keys)
        scores = scores.masked_fill(~mask, -torch.inf)
        out = torch.einsum("hnm,mhd->nhd", scores.softmax(-1), values)
    return out.to(q.dtype), scores.logsumexp(-1)
