"""The slow twin of ``fused_logprob``: all logits at once, differentiated by autograd.

    y = h W^T + b;  y = scale y;  y = cap tanh(y / cap);  z = y / temperature
    log_prob = z[target] - logsumexp(z)
    entropy  = -sum_v p_v log p_v

Half-precision operands are multiplied in float32, under autocast too; float64 stays float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Shapes: M tokens, H hidden size, V vocabulary


def fused_logprob_reference(
    hidden_MH: Tensor, weight_VH: Tensor, targets_M: Tensor, bias_V: Tensor | None, temperature: float, scale: float,
    soft_cap: float | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As ``fused_logprob``, with (M, V) logits in memory."""
    exact = torch.promote_types(hidden_MH.dtype, torch.float32)
    with torch.autocast(hidden_MH.device.type, enabled=False):
        z_MV = hidden_MH.to(exact) @ weight_VH.to(exact).T
    if bias_V is not None:
        z_MV = z_MV + bias_V.to(exact)
    z_MV = z_MV * scale
    if soft_cap is not None:
        z_MV = soft_cap * torch.tanh(z_MV / soft_cap)
    log_p_MV = (z_MV / temperature).log_softmax(-1)
    return log_p_MV.gather(1, targets_M[:, None])[:, 0], -(log_p_MV.exp() * log_p_MV).sum(-1)
