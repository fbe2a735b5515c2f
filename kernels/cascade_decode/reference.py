"""The slow twin of ``cascade_decode``: every query gathers its keys and attends to them, in a loop.

    S = scale q K^T over all segments of the query        lse = log sum exp S        o = softmax(S) V

Half-precision operands are computed in float32, under autocast too; float64 stays float64.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .plan import DecodePlan

# Shapes: S queries, Q query heads, H KV heads, D head width, n keys of a query


def cascade_decode_reference(
    q_SQD: Tensor, k_pages: Tensor, v_pages: Tensor, plan: DecodePlan, scale: float
) -> tuple[Tensor, Tensor]:
    """As ``cascade_decode``."""
    exact = torch.promote_types(q_SQD.dtype, torch.float32)
    o_SQD = torch.zeros_like(q_SQD[..., :1]).expand(*q_SQD.shape[:2], v_pages.shape[3]).clone()
    lse_SQ = torch.full(q_SQD.shape[:2], -math.inf, dtype=exact, device=q_SQD.device)
    group = q_SQD.shape[1] // k_pages.shape[2]
    for query in range(plan.count):
        page_n, slot_n = _keys_of(plan, query)
        if not len(page_n):
            continue
        k_nQD, v_nQD = (x[page_n, slot_n].to(exact).repeat_interleave(group, 1) for x in (k_pages, v_pages))
        with torch.autocast(q_SQD.device.type, enabled=False):
            scores_Qn = scale * torch.einsum("qd,nqd->qn", q_SQD[query].to(exact), k_nQD)
            lse_SQ[query] = scores_Qn.logsumexp(1)
            o_SQD[query] = torch.einsum("qn,nqd->qd", scores_Qn.softmax(1), v_nQD).to(o_SQD.dtype)
    return o_SQD, lse_SQ


def _keys_of(plan: DecodePlan, query: int) -> tuple[Tensor, Tensor]:
    """Page, and place on it, of every key of a query."""
    segments = plan.segments
    tokens = []
    for g in range(len(segments.start_G)):
        if query in segments.queries[segments.query_ptr[g] : segments.query_ptr[g + 1]]:
            token = np.arange(segments.start_G[g], segments.stop_G[g])
            page = segments.pages[segments.page_ptr[g] + token // plan.page_size]
            tokens.append(np.stack([page, token % plan.page_size]))
    both = torch.from_numpy(np.concatenate([np.empty((2, 0), np.int64), *tokens], 1))
    return both[0], both[1]
