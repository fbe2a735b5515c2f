"""The two operations on a tile of logits as Triton kernels; formulas: ``folds.py``.

Forward one program per token, backward one per token and block of words. Tiles, sums and arithmetic are float32, the
gradient is written in the type of the operands. Deterministic: no two programs write to one place.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..dispatch import on_device_of
from .folds import Sums, Transform

_BLOCK = 4096


@triton.jit
def _tanh(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def _forward_kernel(
    tile_ptr, targets_ptr, top_ptr, total_ptr, weighted_ptr, target_ptr,
    first, words, factor, inner, outer, CAPPED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    top = tl.load(top_ptr + row)
    total = tl.load(total_ptr + row)
    weighted = tl.load(weighted_ptr + row)
    column = tl.load(targets_ptr + row) - first
    for start in range(0, words, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < words
        y = tl.load(tile_ptr + row * words + at, mask=inside, other=0.0)
        y = _tanh(y * inner) * outer if CAPPED else y * factor
        z = tl.where(inside, y, -float("inf"))
        new_top = tl.maximum(top, tl.max(z))
        shrink = tl.exp(top - new_top)
        e = tl.exp(z - new_top)
        total = total * shrink + tl.sum(e)
        weighted = weighted * shrink + tl.sum(e * y)
        top = new_top
    tl.store(top_ptr + row, top)
    tl.store(total_ptr + row, total)
    tl.store(weighted_ptr + row, weighted)
    if (column >= 0) & (column < words):
        y = tl.load(tile_ptr + row * words + column)
        y = _tanh(y * inner) * outer if CAPPED else y * factor
        tl.store(target_ptr + row, y)


@triton.jit
def _backward_kernel(
    tile_ptr, targets_ptr, log_z_ptr, entropy_ptr, by_logp_ptr, by_entropy_ptr,
    out_ptr, first, words, factor, inner, outer,
    CAPPED: tl.constexpr, BY_LOGP: tl.constexpr, BY_ENTROPY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < words
    y = tl.load(tile_ptr + row * words + at, mask=inside, other=0.0)
    slope = tl.full((BLOCK,), 1.0, tl.float32) * factor
    if CAPPED:
        tanh = _tanh(y * inner)
        z = tanh * outer
        slope = slope * (1.0 - tanh * tanh)
    else:
        z = y * factor
    log_p = z - tl.load(log_z_ptr + row)
    p = tl.exp(log_p)
    grad = tl.zeros((BLOCK,), tl.float32)
    if BY_LOGP:
        column = tl.load(targets_ptr + row) - first
        grad += tl.load(by_logp_ptr + row) * (tl.where(at == column, 1.0, 0.0) - p)
    if BY_ENTROPY:
        grad -= tl.load(by_entropy_ptr + row) * p * (log_p + tl.load(entropy_ptr + row))
    tl.store(out_ptr + row * words + at, (grad * slope).to(out_ptr.dtype.element_ty), mask=inside)


class TritonFolds:
    """``Folds`` for tiles whose rows lie one after the other."""

    def forward(self, tile_MC: Tensor, targets_M: Tensor, first: int, sums: Sums, transform: Transform) -> None:
        with on_device_of(tile_MC):
            _forward_kernel[(len(tile_MC),)](
                tile_MC, targets_M, sums.top_M, sums.total_M, sums.weighted_M, sums.target_M, first, tile_MC.shape[1],
                *_constants(transform), CAPPED=transform.soft_cap is not None, BLOCK=_block(tile_MC), num_warps=8,
            )  # fmt: skip

    def backward(
        self, tile_MC: Tensor, targets_M: Tensor, first: int, log_z_M: Tensor, entropy_M: Tensor,
        by_logp_M: Tensor | None, by_entropy_M: Tensor | None, transform: Transform, out_MC: Tensor,
    ) -> None:  # fmt: skip
        block = _block(tile_MC)
        with on_device_of(tile_MC):
            _backward_kernel[(len(tile_MC), triton.cdiv(tile_MC.shape[1], block))](
                tile_MC, targets_M, log_z_M, entropy_M, log_z_M if by_logp_M is None else by_logp_M,
                log_z_M if by_entropy_M is None else by_entropy_M, out_MC, first, tile_MC.shape[1],
                *_constants(transform), CAPPED=transform.soft_cap is not None, BY_LOGP=by_logp_M is not None,
                BY_ENTROPY=by_entropy_M is not None, BLOCK=block, num_warps=8,
            )  # fmt: skip


def _constants(transform: Transform) -> tuple[float, float, float]:
    """The factor without a soft cap; with one, what multiplies the product inside the tanh and the tanh itself."""
    if transform.soft_cap is None:
        return transform.factor, 1.0, 1.0
    return transform.factor, transform.scale / transform.soft_cap, transform.soft_cap / transform.temperature


def _block(tile_MC: Tensor) -> int:
    return min(triton.next_power_of_2(tile_MC.shape[1]), _BLOCK)
