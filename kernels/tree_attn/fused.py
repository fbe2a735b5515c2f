"""The Triton kernels as one differentiable function: tables on the device, block sizes, launches.

Shapes: N tokens, nq query heads, nkv key heads, g = nq / nkv, d head size
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..dispatch import interpreting, on_device_of
from ..tree_layout import TreeLayout
from . import triton_bwd, triton_fwd
from .tables import once

LOG2_E = math.log2(math.e)
PROGRAMS = 512
"""Programs wanted for the keys' gradients: about four for each processor of a large GPU."""


@dataclass(frozen=True)
class Blocks:
    """Tile sizes and launch options of one kernel. ``warps`` and ``stages`` mean nothing to the interpreter."""

    query: int
    key: int
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, int]:
        return {"num_warps": self.warps, "num_stages": self.stages}


@dataclass(frozen=True)
class Plan:
    forward: Blocks
    dq: Blocks
    dkdv: Blocks


# By head size up to; for the 227 KB of shared memory that a block of a Hopper or newer GPU can have, and without
# registers spilled to memory as Triton 3.9 compiles them for it (but dkdv at 256, where all choices spill).
LARGE = {
    64: Plan(Blocks(128, 128, 8, 3), Blocks(128, 64, 8, 3), Blocks(64, 128, 8, 3)),
    128: Plan(Blocks(128, 64, 8, 3), Blocks(128, 64, 8, 2), Blocks(32, 128, 8, 2)),
    256: Plan(Blocks(128, 64, 8, 2), Blocks(64, 32, 8, 2), Blocks(32, 64, 8, 2)),
}
# What fits into the 99 KB of a small one, and float32 anywhere.
SMALL = {
    64: Plan(Blocks(64, 64, 4, 2), Blocks(64, 32, 4, 2), Blocks(32, 64, 4, 2)),
    128: Plan(Blocks(64, 32, 4, 2), Blocks(64, 32, 4, 1), Blocks(32, 64, 4, 1)),
    256: Plan(Blocks(32, 32, 4, 1), Blocks(32, 16, 4, 1), Blocks(16, 32, 4, 1)),
}
INTERPRETED = Plan(Blocks(32, 16, 1, 1), Blocks(32, 16, 1, 1), Blocks(16, 32, 1, 1))


def attention(q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, scale: float) -> Tensor:
    """By the Triton kernels."""
    return with_lse(q, k, v, layout, scale)[0]


def with_lse(
    q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, scale: float, plan: Plan | None = None
) -> tuple[Tensor, Tensor]:
    """Output (N, nq, d), and log-sum-exp (nq, N) in float32, which has no gradient."""
    out, lse = _Fused.apply(q, k, v, layout, scale, plan or _plan(q))
    return out, lse


def out_and_gradients(
    q: Tensor, k: Tensor, v: Tensor, dout: Tensor, layout: TreeLayout, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, and the gradients dq, dk and dv by ``dout``, without autograd."""
    plan = _plan(q)
    out, lse = _Fused.apply(q, k, v, layout, scale, plan)
    return out, *_gradients(q, k, v, out, lse, dout, layout, scale, plan)


def _plan(q: Tensor) -> Plan:
    if interpreting():
        return INTERPRETED
    shared = getattr(torch.cuda.get_device_properties(q.device), "shared_memory_per_block_optin", 0)
    table = LARGE if shared >= 220 * 1024 and q.dtype != torch.float32 else SMALL
    return next(plan for head, plan in table.items() if q.shape[-1] <= head)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, scale: float, plan: Plan
    ) -> tuple[Tensor, Tensor]:
        q, k, v = (_rows_in_one_piece(x) for x in (q, k, v))
        out = q.new_empty(q.shape)
        lse = q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)
        if q.shape[0]:
            sub_end, start, full, stop, key_tile, heavy_first = _query_tables(layout, q.device, plan.forward)
            grid = (q.shape[1], len(heavy_first))
            with on_device_of(q):
                triton_fwd.tree_attn_fwd_kernel[grid](
                    q, k, v, out, lse, sub_end, start, full, stop, key_tile, heavy_first, q.shape[0],
                    *_strides(q, k, v, out), scale * LOG2_E,
                    **_constants(q, k), BLOCK_Q=plan.forward.query, BLOCK_K=plan.forward.key, **plan.forward.options,
                )  # fmt: skip
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.scale, ctx.plan = layout, scale, plan
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        if not q.shape[0]:
            return torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v), None, None, None
        grads = _gradients(q, k, v, out, lse, _rows_in_one_piece(dout), ctx.layout, ctx.scale, ctx.plan)
        return *grads, None, None, None


def _gradients(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, dout: Tensor, layout: TreeLayout, scale: float,
    plan: Plan,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    with on_device_of(q):
        delta = _delta(out, dout, lse, plan.dq)
        # The keys first: the sums of their parts are given back before dq takes memory.
        dk, dv = _dk_dv(q, k, v, dout, lse, delta, layout, scale, plan.dkdv)
        dq = _dq(q, k, v, dout, lse, delta, layout, scale, plan.dq)
    return dq, dk, dv


def _delta(out: Tensor, dout: Tensor, lse: Tensor, blocks: Blocks) -> Tensor:
    delta = torch.empty_like(lse)
    grid = (out.shape[1], -(-out.shape[0] // blocks.query))
    constants = _constants(out, out)
    triton_bwd.tree_attn_bwd_delta_kernel[grid](
        out, dout, delta, out.shape[0], *_strides(out, dout),
        HEAD=constants["HEAD"], WIDTH=constants["WIDTH"], BLOCK_Q=blocks.query,
    )  # fmt: skip
    return delta


def _dq(
    q: Tensor, k: Tensor, v: Tensor, dout: Tensor, lse: Tensor, delta: Tensor, layout: TreeLayout, scale: float,
    blocks: Blocks,
) -> Tensor:  # fmt: skip
    dq = q.new_empty(q.shape)
    sub_end, start, full, stop, key_tile, heavy_first = _query_tables(layout, q.device, blocks)
    triton_bwd.tree_attn_bwd_dq_kernel[(q.shape[1], len(heavy_first))](
        q, k, v, dout, lse, delta, dq, sub_end, start, full, stop, key_tile, heavy_first, q.shape[0],
        *_strides(q, k, v, dout), scale, scale * LOG2_E,
        **_constants(q, k), BLOCK_Q=blocks.query, BLOCK_K=blocks.key, **blocks.options,
    )  # fmt: skip
    return dq


def _dk_dv(
    q: Tensor, k: Tensor, v: Tensor, dout: Tensor, lse: Tensor, delta: Tensor, layout: TreeLayout, scale: float,
    blocks: Blocks,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    heads = k.shape[1]
    dk, dv = k.new_empty(k.shape), v.new_empty(v.shape)
    sub_end, items, sums, slots = _key_tables(layout, q.device, blocks, heads)
    constants = _constants(q, k)
    dk_parts, dv_parts = (
        q.new_empty(max(slots, 1), heads, blocks.key, q.shape[-1], dtype=torch.float32) for _ in range(2)
    )
    triton_bwd.tree_attn_bwd_dkdv_kernel[(heads, len(items))](
        q, k, v, dout, lse, delta, dk, dv, dk_parts, dv_parts, sub_end, items, q.shape[0],
        *_strides(q, k, v, dout), scale, scale * LOG2_E,
        **constants, BLOCK_K=blocks.key, BLOCK_Q=blocks.query, **blocks.options,
    )  # fmt: skip
    if slots:
        triton_bwd.tree_attn_bwd_add_parts_kernel[(heads, len(sums))](
            dk, dv, dk_parts, dv_parts, sums, q.shape[0],
            HEAD=constants["HEAD"], WIDTH=constants["WIDTH"], BLOCK_K=blocks.key,
        )  # fmt: skip
    return dk, dv


def _query_tables(layout: TreeLayout, device: torch.device, blocks: Blocks) -> tuple[Tensor, ...]:
    def make() -> tuple[Tensor, ...]:
        tiles = layout.tiles(blocks.query, blocks.key)
        arrays = (tiles.start, tiles.full, tiles.stop, tiles.key_tile, tiles.heavy_first)
        return _sub_end(layout, device), *(torch.from_numpy(array).to(device) for array in arrays)

    return once(layout, ("query", device, blocks.query, blocks.key), make)


def _key_tables(layout: TreeLayout, device: torch.device, blocks: Blocks, heads: int) -> tuple[Any, ...]:
    def make() -> tuple[Any, ...]:
        work = layout.tiles(blocks.query, blocks.key).work(PROGRAMS // heads)
        items, sums = (torch.from_numpy(array).to(device) for array in (work.items, work.sums))
        return _sub_end(layout, device), items, sums, work.slots

    return once(layout, ("key", device, blocks.query, blocks.key, heads), make)


def _sub_end(layout: TreeLayout, device: torch.device) -> Tensor:
    return once(layout, ("sub_end", device), lambda: torch.from_numpy(layout.sub_end.astype(np.int32)).to(device))


def _constants(q: Tensor, k: Tensor) -> dict[str, Any]:
    head = q.shape[-1]
    width = max(16, 1 << (head - 1).bit_length())
    return {"GROUP": q.shape[1] // k.shape[1], "HEAD": head, "WIDTH": width, "UPCAST": interpreting()}


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for tensor in tensors for stride in tensor.stride()[:2]]


def _rows_in_one_piece(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
