"""Tree attention through torch's own attention: with a dense mask, or on a CPU unit by unit.

Dense: one call over (N, N), most of which is masked. By unit: the pack is cut into units of at most ``UNIT`` tokens,
pieces of a long node or whole small subtrees, and each attends to the keys of its path and to itself:

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
"""More tokens mean fewer calls, and more masked pairs computed in vain."""
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
        q, k, v = (x.contiguous() for x in (q, k, v))
        out, lse = torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0], dtype=sums_dtype(q.dtype))
        grouped = _grouping(q, k)
        path = _Path(k, v, layout, unit)
        for part in layout.units(unit):
            keys, values = path.enter(part)
            span = slice(part.start, part.stop)
            out_part, lse_part = _forward(
                grouped(q[span]), grouped(keys), grouped(values), attn_mask=_mask(part, layout, q.dtype), scale=scale
            )
            grouped(out[span]).copy_(out_part)
            lse[:, span] = lse_part.flatten(0, 1)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.scale, ctx.unit = layout, scale, unit
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        dq, dk, dv, dout = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), dout.contiguous()
        grouped = _grouping(q, k)
        path = _Path(k, v, ctx.layout, ctx.unit)
        sums = _PathSums(dk, dv, path)
        for part in ctx.layout.units(ctx.unit):
            keys, values = path.enter(part)
            span = slice(part.start, part.stop)
            lse_part = lse[:, span].unflatten(0, (k.shape[1], -1))
            mask = _mask(part, ctx.layout, q.dtype)
            dq_part, dk_part, dv_part = _backward(
                grouped(dout[span]), grouped(q[span]), grouped(keys), grouped(values), grouped(out[span]), lse_part,
                0.0, False, attn_mask=mask, scale=ctx.scale,
            )  # fmt: skip
            grouped(dq[span]).copy_(dq_part)
            sums.add(part, dk_part, dv_part)
        sums.flush(0)
        return dq, dk, dv, None, None, None


class _Path:
    """Keys and values of the path to the current unit."""

    def __init__(self, k: Tensor, v: Tensor, layout: TreeLayout, unit: int) -> None:
        longest = max((part.depth + part.stop - part.start for part in layout.units(unit)), default=0)
        self.k, self.v = k, v
        self.keys, self.values = k.new_empty(longest, *k.shape[1:]), v.new_empty(longest, *v.shape[1:])

    def enter(self, part: Unit) -> tuple[Tensor, Tensor]:
        length = part.depth + part.stop - part.start
        self.keys[part.depth : length] = self.k[part.start : part.stop]
        self.values[part.depth : length] = self.v[part.start : part.stop]
        return self.keys[:length], self.values[:length]


class _PathSums:
    """Gradients of the keys and values on the path, until no unit below them is left."""

    def __init__(self, dk: Tensor, dv: Tensor, path: _Path) -> None:
        self.dk, self.dv = dk, dv
        self.keys = torch.zeros_like(path.keys, dtype=sums_dtype(dk.dtype))
        self.values = torch.zeros_like(path.values, dtype=sums_dtype(dv.dtype))
        self.open: list[Unit] = []

    def add(self, part: Unit, dk_part: Tensor, dv_part: Tensor) -> None:
        """From (nkv, g, D + L, d): the query heads of a group add up."""
        self.flush(part.depth)
        length = part.depth + part.stop - part.start
        self.keys[:length] += dk_part.sum(1).transpose(0, 1)
        self.values[:length] += dv_part.sum(1).transpose(0, 1)
        self.open.append(part)

    def flush(self, depth: int) -> None:
        """Done with all units that begin at this depth or below."""
        while self.open and self.open[-1].depth >= depth:
            done = self.open.pop()
            span = slice(done.depth, done.depth + done.stop - done.start)
            self.dk[done.start : done.stop], self.dv[done.start : done.stop] = self.keys[span], self.values[span]
            self.keys[span], self.values[span] = 0, 0


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


def _mask(part: Unit, layout: TreeLayout, dtype: torch.dtype) -> Tensor:
    """(1, 1, L, D + L): 0 where the query sees the key, -inf elsewhere."""
    length = part.stop - part.start
    index = torch.arange(length)
    sub_end = torch.from_numpy(layout.sub_end[part.start : part.stop] - part.start)
    hidden = (index[None, :] > index[:, None]) | (index[:, None] >= sub_end[None, :])
    mask = torch.zeros(length, part.depth + length, dtype=dtype)
    mask[:, part.depth :].masked_fill_(hidden, -torch.inf)
    return mask[None, None]


def sums_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which sums of numbers of a dtype are kept."""
    return torch.float64 if dtype == torch.float64 else torch.float32
