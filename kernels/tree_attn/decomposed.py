"""Tree attention by parts that any fused attention can compute, merged by their log-sum-exp. Exact for any tree.

    part 0          every node's tokens to one another, causal
    part 1 + l      the tokens below the nodes of level l to those nodes, without a mask

A query is in part 0 and in one part for each node above its own; no part has a masked tile, so a one-level group costs
three dense calls' worth of work. Deep trees make many parts: there the Triton kernels are the better way.

    forward     o, lse = merge of the parts' (o, lse)
    backward    P_ij = exp(S_ij - lse_i) and D_i = dO_i . O_i belong to the whole row, so each part's own backward pass,
                given the merged o and lse, yields its exact share: dQ, dK and dV are the sums over the parts

Each part is one call over ragged sequences: torch's FlashAttention on a GPU, on a CPU one call per sequence.

Shapes: N tokens, nq query heads, nkv key heads, d head size, A query tokens and B key tokens of a part
Source: Hydragen (arXiv 2402.05099) for the merge, ring attention (arXiv 2310.01889) for the backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..merge_lse import merge_lse
from ..tree_layout import I64, TreeLayout
from .sdpa import backward_on_cpu, forward_on_cpu, sums_dtype
from .tables import once


@dataclass(frozen=True, eq=False)
class Part:
    """Ragged sequences of queries, each with the keys it sees."""

    queries: Tensor | slice
    """Tokens of the pack, (A,); a slice where they lie side by side, because that is no copy."""
    keys: Tensor | slice
    """(B,), likewise."""
    query_stops: Tensor
    """Where each sequence stops in ``queries``, with a leading 0; int32."""
    key_stops: Tensor
    longest_query: int
    longest_key: int
    causal: bool


def attention(q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, scale: float) -> Tensor:
    """By parts; tensors on a GPU in half precision, or on a CPU."""
    out: Tensor = _ByParts.apply(q, k, v, layout, scale)
    return out


def parts_of(layout: TreeLayout, device: torch.device) -> list[Part]:
    """The parts of a layout; made once."""

    def make() -> list[Part]:
        if not len(layout):  # torch's fused attention takes no batch of nothing
            return []
        nodes = layout.nodes
        parts = [_part(nodes.start, nodes.stop, nodes.start, nodes.stop, True, device)]
        for level in range(int(nodes.level.max(initial=0))):
            of = np.flatnonzero((nodes.level == level) & (nodes.end > nodes.stop))
            parts.append(_part(nodes.stop[of], nodes.end[of], nodes.start[of], nodes.stop[of], False, device))
        return parts

    made: list[Part] = once(layout, ("parts", device), make)
    return made


def _part(query_start: I64, query_stop: I64, key_start: I64, key_stop: I64, causal: bool, device: torch.device) -> Part:
    query_lengths, key_lengths = query_stop - query_start, key_stop - key_start

    def tokens(start: I64, lengths: I64) -> Tensor | slice:
        before = np.cumsum(lengths) - lengths
        index = np.arange(int(lengths.sum())) + np.repeat(start - before, lengths)
        if index[-1] - index[0] + 1 == len(index):  # in ascending order, so there are no gaps
            return slice(int(index[0]), int(index[-1]) + 1)
        return torch.from_numpy(index).to(device)

    def stops(lengths: I64) -> Tensor:
        return torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)).to(device)

    return Part(
        tokens(query_start, query_lengths), tokens(key_start, key_lengths), stops(query_lengths), stops(key_lengths),
        int(query_lengths.max(initial=0)), int(key_lengths.max(initial=0)), causal,
    )  # fmt: skip


class _ByParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, scale: float) -> Tensor:
        q, k, v = (x.contiguous() for x in (q, k, v))
        total = sums_dtype(q.dtype)
        out, lse = q.new_zeros(q.shape, dtype=total), q.new_zeros(q.shape[:2], dtype=total)
        for number, part in enumerate(parts_of(layout, q.device)):
            out_A, lse_A = _attend(part, q[part.queries], k[part.keys], v[part.keys], scale)
            out_A = out_A.to(total)
            if number:
                out_A, lse_A = merge_lse(out[part.queries], lse[part.queries], out_A, lse_A)
            out[part.queries], lse[part.queries] = out_A, lse_A
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        sums = [torch.zeros_like(x, dtype=sums_dtype(x.dtype)) for x in (q, k, v)]
        for part in parts_of(ctx.layout, q.device):
            at, of = part.queries, part.keys
            shares = _attend_backward(part, dout[at], q[at], k[of], v[of], out[at], lse[at], ctx.scale)
            for total, tokens, share in zip(sums, (at, of, of), shares, strict=True):
                total[tokens] += share  # no token is twice in a part
        dq, dk, dv = (total.to(x.dtype) for total, x in zip(sums, (q, k, v), strict=True))
        return dq, dk, dv, None, None


def _attend(part: Part, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output (A, nq, d) and log-sum-exp (A, nq) of one part."""
    if not q.is_cuda:
        return forward_on_cpu(q, k, v, part.query_stops.tolist(), part.key_stops.tolist(), part.causal, scale)
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, part.query_stops, part.key_stops, part.longest_query, part.longest_key,
        0.0, part.causal, return_debug_mask=False, scale=scale,
    )  # fmt: skip
    return out, lse.T


def _attend_backward(
    part: Part, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The part's share of dQ (A, nq, d), dK and dV (B, nkv, d)."""
    if not q.is_cuda:
        stops = part.query_stops.tolist(), part.key_stops.tolist()
        return backward_on_cpu(dout, q, k, v, out, lse, *stops, part.causal, scale)
    no_dropout = torch.zeros(2, dtype=torch.uint64, device=q.device)
    dq, dk, dv = torch.ops.aten._flash_attention_backward(
        dout.contiguous(), q, k, v, out, lse.T.contiguous(), part.query_stops, part.key_stops,
        part.longest_query, part.longest_key, 0.0, part.causal, no_dropout, torch.empty(0, device=q.device),
        scale=scale,
    )  # fmt: skip
    return dq, dk, dv
