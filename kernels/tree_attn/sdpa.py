"""Tree attention through torch's own attention: with a dense mask, or on a CPU unit by unit.

Dense: one call over (N, N), most of which is masked. By unit: the pack is cut into whole subtrees of at most ``UNIT``
tokens and pieces of longer nodes, of at most twice as many, and each attends to the keys of its path and to itself:

    keys of a unit = [ancestors (D) | own (L)]        mask (L, D + L) = [0 | causal within sub_end]

Because tokens stand in pre-order, one buffer holds the keys of the current path: a unit writes its own at [D, D + L),
and what comes after it at a smaller depth overwrites them. So every key is copied once. The backward pass walks the
same way and adds dK and dV up in a second buffer, out of which a unit's part is taken when its subtree is done.

Grouped queries cost no copy: heads are laid out as (nkv, g) batch and head dimensions, and keys are expanded over g.

Shapes: N tokens, nq query heads, nkv key heads, g = nq / nkv, d head size, L tokens of a unit, D tokens above it
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from ..tree_layout import TreeLayout, Unit

UNIT = 128
"""More tokens mean fewer calls and larger blocks in them, and more masked pairs computed in vain."""
_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def attention(q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, scale: float) -> Tensor:
    """By unit on a CPU, dense elsewhere."""
    return (by_unit if q.device.type == "cpu" else dense)(q, k, v, layout, scale)


def dense(q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, scale: float) -> Tensor:
    """By one call with a mask of N x N."""
    mask = torch.from_numpy(layout.mask()).to(q.device)
    heads_first = (x.transpose(0, 1)[None] for x in (q, k, v))
    out = scaled_dot_product_attention(*heads_first, attn_mask=mask, scale=scale, enable_gqa=True)
    return out[0].transpose(0, 1)


def by_unit(q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, scale: float, unit: int = UNIT) -> Tensor:
    """By one call per unit; tensors on a CPU."""
    out: Tensor = _ByUnit.apply(q, k, v, layout, scale, unit)
    return out


class _ByUnit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, scale: float, unit: int) -> Tensor:
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        out, lse = q.new_empty(q.shape), q.new_empty(q.shape[1], q.shape[0], dtype=sums_dtype(q.dtype))
        grouped, path = _grouping(q, k), _Path(q, k, v, layout, unit)
        q_hgNd, out_hgNd, lse_hgN = grouped(q), grouped(out), lse.unflatten(0, (k.shape[1], -1))
        for part in path.units:
            keys, values, mask = path.enter(part)
            span = slice(part.start, part.stop)
            out_part, lse_part = _forward(q_hgNd[:, :, span], keys, values, attn_mask=mask, scale=scale)
            out_hgNd[:, :, span] = out_part
            lse_hgN[:, :, span] = lse_part
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.scale, ctx.unit = layout, scale, unit
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        dout = dout if dout.stride(-1) == 1 else dout.contiguous()
        grouped, path = _grouping(q, k), _Path(q, k, v, ctx.layout, ctx.unit)
        dq_hgNd, lse_hgN = grouped(dq), lse.unflatten(0, (k.shape[1], -1))
        given = [grouped(x) for x in (dout, q, out)]
        sums = _PathSums(dk, dv, path)
        for part in path.units:
            keys, values, mask = path.enter(part)
            span = slice(part.start, part.stop)
            dout_part, q_part, out_part = (x[:, :, span] for x in given)
            dq_part, dk_part, dv_part = _backward(
                dout_part, q_part, keys, values, out_part, lse_hgN[:, :, span], 0.0, False, attn_mask=mask,
                scale=ctx.scale,
            )  # fmt: skip
            dq_hgNd[:, :, span] = dq_part
            sums.add(part, dk_part, dv_part)
        sums.flush(0)
        return dq, dk, dv, None, None, None


class _Path:
    """Keys and values of the path to the current unit, and which of them its tokens see."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, unit: int) -> None:
        self.units, self.blocks = layout.units(unit), layout.unit_masks(unit)
        self.k_hNd, self.v_hNd = k.transpose(0, 1), v.transpose(0, 1)
        (heads, _, width), group = self.k_hNd.shape, q.shape[1] // k.shape[1]
        self.length = max((part.depth + part.stop - part.start for part in self.units), default=0)
        self.keys, self.values = (x.new_empty(heads, self.length, width) for x in (k, v))
        self.keys_hgPd, self.values_hgPd = (x[:, None].expand(-1, group, -1, -1) for x in (self.keys, self.values))
        # Left of column ``deepest`` is what a unit has above it, which it sees; its own keys stand right of it.
        self.deepest = max((part.depth for part in self.units), default=0)
        longest = max((part.stop - part.start for part in self.units), default=0)
        self.mask, self.block = q.new_zeros(longest, self.deepest + longest), -1

    def enter(self, part: Unit) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values (nkv, g, D + L, d), and the additive mask (1, 1, L, D + L)."""
        size, span = part.stop - part.start, slice(part.start, part.stop)
        length = part.depth + size
        self.keys[:, part.depth : length] = self.k_hNd[:, span]
        self.values[:, part.depth : length] = self.v_hNd[:, span]
        if part.block != self.block:
            self.block = part.block
            self.mask[:size, self.deepest : self.deepest + size] = torch.from_numpy(self.blocks[part.block])
        mask = self.mask[:size, self.deepest - part.depth : self.deepest + size]
        return self.keys_hgPd[:, :, :length], self.values_hgPd[:, :, :length], mask[None, None]


class _PathSums:
    """Gradients of the keys and values on the path, until no unit below them is left."""

    def __init__(self, dk: Tensor, dv: Tensor, path: _Path) -> None:
        self.done = dk.transpose(0, 1), dv.transpose(0, 1)
        self.sums = [torch.empty_like(x, dtype=sums_dtype(x.dtype)) for x in (path.keys, path.values)]
        self.open: list[Unit] = []

    def add(self, part: Unit, *by_part_hgPd: Tensor) -> None:
        """From (nkv, g, D + L, d): the query heads of a group add up."""
        self.flush(part.depth)
        for sums, by_part in zip(self.sums, by_part_hgPd, strict=True):
            by_part = by_part[:, 0] if by_part.shape[1] == 1 else by_part.sum(1)
            sums[:, : part.depth] += by_part[:, : part.depth]
            sums[:, part.depth : by_part.shape[1]] = by_part[:, part.depth :]
        self.open.append(part)

    def flush(self, depth: int) -> None:
        """Done with all units that begin at this depth or below."""
        while self.open and self.open[-1].depth >= depth:
            last = self.open.pop()
            for done, sums in zip(self.done, self.sums, strict=True):
                done[:, last.start : last.stop] = sums[:, last.depth : last.depth + last.stop - last.start]


def forward_on_cpu(
    q: Tensor, k: Tensor, v: Tensor, query_stops: Sequence[int], key_stops: Sequence[int], causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Ragged sequences one by one: output (A, nq, d) and log-sum-exp (A, nq)."""
    out, lse = torch.empty_like(q), q.new_empty(q.shape[:2], dtype=sums_dtype(q.dtype))
    grouped = _grouping(q, k)
    for at, of in zip(_spans(query_stops), _spans(key_stops), strict=True):
        out_part, lse_part = _forward(grouped(q[at]), grouped(k[of]), grouped(v[of]), is_causal=causal, scale=scale)
        grouped(out[at]).copy_(out_part)
        lse[at] = lse_part.flatten(0, 1).T
    return out, lse


def backward_on_cpu(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    query_stops: Sequence[int], key_stops: Sequence[int], causal: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of the same, if ``out`` and ``lse`` are those of whole rows: this part's share."""
    dq, dk, dv, dout = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), dout.contiguous()
    grouped = _grouping(q, k)
    for at, of in zip(_spans(query_stops), _spans(key_stops), strict=True):
        dq_part, dk_part, dv_part = _backward(
            grouped(dout[at]), grouped(q[at]), grouped(k[of]), grouped(v[of]), grouped(out[at]),
            lse[at].T.unflatten(0, (k.shape[1], -1)), 0.0, causal, scale=scale,
        )  # fmt: skip
        grouped(dq[at]).copy_(dq_part)
        dk[of], dv[of] = dk_part.sum(1).transpose(0, 1), dv_part.sum(1).transpose(0, 1)
    return dq, dk, dv


def _spans(stops: Sequence[int]) -> list[slice]:
    return [slice(start, stop) for start, stop in pairwise(stops)]


def _grouping(q: Tensor, k: Tensor) -> Callable[[Tensor], Tensor]:
    """Views (n, nq, d) and (n, nkv, d) as (nkv, g, n, d), keys expanded over g."""
    heads, group = k.shape[1], q.shape[1] // k.shape[1]

    def grouped(x: Tensor) -> Tensor:
        if x.shape[1] == heads:
            return x.transpose(0, 1)[:, None].expand(-1, group, -1, -1)
        return x.unflatten(1, (heads, group)).permute(1, 2, 0, 3)

    return grouped


def sums_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which sums of numbers of a dtype are kept."""
    return torch.float64 if dtype == torch.float64 else torch.float32
