"""Turns logits and one uniform per row into a token and its log-prob.

    z    = logits / temperature, then top-k, then top-p (the smallest set of tokens whose mass reaches p)
    logp = log_softmax(z) in float32: the log-prob under the distribution the token is drawn from
    id   = first token whose cumulated probability (float64) exceeds u * total: inverse-CDF sampling

At temperature 0 the token is the argmax (lowest id among equals), top-k and top-p mean nothing, and the log-prob is the
one at temperature 1, since that of a point mass would be 0 for every token and tell nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .protocol import Sampling

# Shapes: N rows, V vocabulary

_ELEMENTS = 1 << 24
"""Entries of (N, V) handled at a time: a float64 cumulation over a large vocabulary takes memory."""


def draw(logits_NV: Tensor, sampling: Sampling, uniform_N: Tensor) -> tuple[Tensor, Tensor]:
    """``(ids_N int64, logp_N float32)`` for float32 logits and uniforms (float64, in (0, 1), on the same device)."""
    rows = max(_ELEMENTS // logits_NV.shape[1], 1)
    if len(logits_NV) > rows:
        pieces = zip(logits_NV.split(rows), uniform_N.split(rows), strict=True)
        ids, logp = zip(*(draw(some, sampling, uniform) for some, uniform in pieces), strict=True)
        return torch.cat(ids), torch.cat(logp)
    if sampling.temperature == 0:
        ids_N1 = logits_NV.argmax(-1, keepdim=True)
        return ids_N1[:, 0], torch.log_softmax(logits_NV, -1).gather(-1, ids_N1)[:, 0]
    logp_NV = sampling_logp(logits_NV, sampling)
    cdf_NV = logp_NV.double().exp_().cumsum_(-1)
    target_N1 = uniform_N[:, None] * cdf_NV[:, -1:]
    # right=True skips tokens of probability 0: the first strictly greater entry always carries mass
    ids_N1 = torch.searchsorted(cdf_NV, target_N1, right=True)
    # among NaN nothing is found: the id is then any, and its log-prob tells
    ids_N1.clamp_(max=logits_NV.shape[1] - 1)
    return ids_N1[:, 0], logp_NV.gather(-1, ids_N1)[:, 0]


def sampling_logp(logits_NV: Tensor, sampling: Sampling) -> Tensor:
    """Log-probs of the distribution tokens are drawn from, shape (N, V), float32; ``-inf`` where a token is cut off."""
    scaled_NV = logits_NV if sampling.temperature == 1 else logits_NV / sampling.temperature
    vocabulary = scaled_NV.shape[-1]
    if 0 < sampling.top_k < vocabulary:
        least_N1 = scaled_NV.topk(sampling.top_k, dim=-1).values[:, -1:]
        scaled_NV = scaled_NV.masked_fill(scaled_NV < least_N1, -torch.inf)
    if sampling.top_p < 1:
        sorted_NV, order_NV = scaled_NV.sort(dim=-1, descending=True, stable=True)
        mass_NV = sorted_NV.softmax(-1)
        # a token stays when the mass before it is still short of p; the first one always does
        dropped_NV = (mass_NV.cumsum(-1) - mass_NV) >= sampling.top_p
        dropped_NV[:, 0] = False
        scaled_NV = scaled_NV.masked_fill(dropped_NV.scatter(-1, order_NV, dropped_NV), -torch.inf)
    return torch.log_softmax(scaled_NV, -1)
