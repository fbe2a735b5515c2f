"""``merge_lse`` as Triton kernels, forward and backward, one program per block of rows.

    m = max(L1, L2)    w_p = exp(L_p - m)    L = m + log(w1 + w2)    o = (w1 o1 + w2 o2) / (w1 + w2)
    do_p = exp(L_p - L) do                   dL_p = exp(L_p - L) (do . (o_p - o) + dL)

All arithmetic is float32. Deterministic: no two programs write to one place.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..dispatch import on_device_of

# Shapes: N rows, D head width

_ROWS = 16


@triton.jit
def _forward_kernel(
    o1_ptr, l1_ptr, o2_ptr, l2_ptr, o_ptr, l_ptr, rows, width,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    here = row < rows
    at = row[:, None] * width + column[None, :]
    inside = here[:, None] & (column[None, :] < width)
    l1 = tl.load(l1_ptr + row, mask=here, other=-float("inf")).to(tl.float32)
    l2 = tl.load(l2_ptr + row, mask=here, other=-float("inf")).to(tl.float32)
    top = tl.maximum(l1, l2)
    top = tl.where(top == -float("inf"), 0.0, top)
    w1 = tl.exp(l1 - top)
    w2 = tl.exp(l2 - top)
    total = w1 + w2
    empty = total == 0.0
    safe = tl.where(empty, 1.0, total)
    # A part without keys counts as nothing even if its output is not a number.
    o1 = tl.load(o1_ptr + at, mask=inside & (w1 > 0.0)[:, None], other=0.0).to(tl.float32)
    o2 = tl.load(o2_ptr + at, mask=inside & (w2 > 0.0)[:, None], other=0.0).to(tl.float32)
    o = (o1 * w1[:, None] + o2 * w2[:, None]) / safe[:, None]
    tl.store(o_ptr + at, o.to(o_ptr.dtype.element_ty), mask=inside)
    tl.store(l_ptr + row, tl.where(empty, -float("inf"), top + tl.log(safe)), mask=here)


@triton.jit
def _backward_kernel(
    o1_ptr, l1_ptr, o2_ptr, l2_ptr, l_ptr, do_ptr, dl_ptr,
    do1_ptr, dl1_ptr, do2_ptr, dl2_ptr, rows, width,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    here = row < rows
    at = row[:, None] * width + column[None, :]
    inside = here[:, None] & (column[None, :] < width)
    total = tl.load(l_ptr + row, mask=here, other=-float("inf"))
    safe = tl.where(total == -float("inf"), 0.0, total)
    w1 = tl.exp(tl.load(l1_ptr + row, mask=here, other=-float("inf")).to(tl.float32) - safe)
    w2 = tl.exp(tl.load(l2_ptr + row, mask=here, other=-float("inf")).to(tl.float32) - safe)
    o1 = tl.load(o1_ptr + at, mask=inside & (w1 > 0.0)[:, None], other=0.0).to(tl.float32)
    o2 = tl.load(o2_ptr + at, mask=inside & (w2 > 0.0)[:, None], other=0.0).to(tl.float32)
    do = tl.load(do_ptr + at, mask=inside, other=0.0).to(tl.float32)
    dl = tl.load(dl_ptr + row, mask=here, other=0.0).to(tl.float32)
    # o is recomputed in float32: the stored one may be rounded to 16 bits
    o = o1 * w1[:, None] + o2 * w2[:, None]
    tl.store(do1_ptr + at, (do * w1[:, None]).to(do1_ptr.dtype.element_ty), mask=inside)
    tl.store(do2_ptr + at, (do * w2[:, None]).to(do2_ptr.dtype.element_ty), mask=inside)
    dl1 = tl.where(w1 > 0.0, w1 * (tl.sum(do * (o1 - o), 1) + dl), 0.0)
    dl2 = tl.where(w2 > 0.0, w2 * (tl.sum(do * (o2 - o), 1) + dl), 0.0)
    tl.store(dl1_ptr + row, dl1.to(dl1_ptr.dtype.element_ty), mask=here)
    tl.store(dl2_ptr + row, dl2.to(dl2_ptr.dtype.element_ty), mask=here)


class _MergeLse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, o1: Tensor, lse1: Tensor, o2: Tensor, lse2: Tensor) -> tuple[Tensor, Tensor]:
        parts = [part.contiguous() for part in (o1, lse1, o2, lse2)]
        o, lse = torch.empty_like(parts[0]), torch.empty_like(parts[1], dtype=torch.float32)
        rows, width = lse.numel(), o.shape[-1]
        if rows:
            block = triton.next_power_of_2(width)
            with on_device_of(o):
                _forward_kernel[(triton.cdiv(rows, _ROWS),)](*parts, o, lse, rows, width, ROWS=_ROWS, WIDTH=block)
        ctx.save_for_backward(*parts, lse)
        return o, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor, dlse: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        *parts, lse = ctx.saved_tensors
        grads = [torch.empty_like(part) for part in parts]
        rows, width = lse.numel(), do.shape[-1]
        if rows:
            block = triton.next_power_of_2(width)
            with on_device_of(lse):
                _backward_kernel[(triton.cdiv(rows, _ROWS),)](
                    *parts, lse, do.contiguous(), dlse.contiguous(), *grads, rows, width, ROWS=_ROWS, WIDTH=block
                )
        return grads[0], grads[1], grads[2], grads[3]


def merge_lse_triton(o1: Tensor, lse1: Tensor, o2: Tensor, lse2: Tensor) -> tuple[Tensor, Tensor]:
    """As ``merge_lse``; ``lse`` comes back in float32, ``o`` in the type of ``o1``."""
    o, lse = _MergeLse.apply(o1, lse1, o2, lse2)
    return o, lse
