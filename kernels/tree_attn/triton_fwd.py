"""Tree attention in Triton, forward: one pass over the live tiles of keys, in base 2.

    s = q k^T                          x = s * scale * log2(e), -inf where the query doesn't see the key
    m' = max(m, max_j x_j)             a = 2^(m - m')
    l  = a l + sum_j 2^(x_j - m')      acc = a acc + 2^(x - m') v
    o  = acc / l                       lse = ln 2 * (m + log2 l)

A program owns a tile of queries of one head and reads the keys of its path where they lie. The list of its key tiles
comes from :class:`~laconic.kernels.tree_layout.Tiles`: first those without a masked element, which need no test.

Shapes: N tokens, nq query heads, nkv key heads, d head size (WIDTH: d up to a power of two)
Source: FlashAttention-2 (arXiv 2307.08691).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_rows(pointer, rows, tokens, stride, HEAD: tl.constexpr, WIDTH: tl.constexpr, UPCAST: tl.constexpr):
    """Rows of one head, (rows, WIDTH); 0 outside. The interpreter can't compute in bfloat16, hence UPCAST."""
    dims = tl.arange(0, WIDTH)
    inside = (rows < tokens)[:, None]
    if HEAD != WIDTH:
        inside = inside & (dims < HEAD)[None, :]
    tile = tl.load(pointer + rows.to(tl.int64)[:, None] * stride + dims[None, :], mask=inside, other=0.0)
    if UPCAST:
        tile = tile.to(tl.float32)
    return tile


@triton.jit
def store_rows(pointer, tile, rows, tokens, stride, HEAD: tl.constexpr, WIDTH: tl.constexpr):
    dims = tl.arange(0, WIDTH)
    inside = (rows < tokens)[:, None]
    if HEAD != WIDTH:
        inside = inside & (dims < HEAD)[None, :]
    at = pointer + rows.to(tl.int64)[:, None] * stride + dims[None, :]
    tl.store(at, tile.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def _fold(
    acc, total, most, q_tile, k, v, sub_end, key_tile, first, last, rows, tokens, stride_k, stride_v, factor,
    MASKED: tl.constexpr, HEAD: tl.constexpr, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Key tiles ``key_tile[first:last]`` folded into the running softmax."""
    for at in range(first, last):
        cols = tl.load(key_tile + at) * BLOCK_K + tl.arange(0, BLOCK_K)
        keys = load_rows(k, cols, tokens, stride_k, HEAD, WIDTH, UPCAST)
        scores = tl.dot(q_tile, tl.trans(keys), input_precision="ieee")
        if MASKED:
            end = tl.load(sub_end + cols, mask=cols < tokens, other=0)
            seen = (cols[None, :] <= rows[:, None]) & (rows[:, None] < end[None, :])
            scores = tl.where(seen, scores, -float("inf"))
        new_most = tl.maximum(most, tl.max(scores, 1) * factor)
        # A row that has seen no key yet keeps -inf, which must not be subtracted from itself.
        base = tl.where(new_most == -float("inf"), 0.0, new_most)
        weights = tl.exp2(scores * factor - base[:, None])
        rescale = tl.exp2(most - base)
        total = total * rescale + tl.sum(weights, 1)
        values = load_rows(v, cols, tokens, stride_v, HEAD, WIDTH, UPCAST)
        acc = acc * rescale[:, None]
        acc = tl.dot(weights.to(values.dtype), values, acc, input_precision="ieee")
        most = new_most
    return acc, total, most


@triton.jit(do_not_specialize=["tokens"])
def tree_attn_fwd_kernel(
    q, k, v, out, lse, sub_end, start, full, stop, key_tile, heavy_first, tokens,
    stride_qn, stride_qh, stride_kn, stride_kh, stride_vn, stride_vh, stride_on, stride_oh, factor,
    GROUP: tl.constexpr, HEAD: tl.constexpr, WIDTH: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """Grid (nq, query tiles): the heads run side by side, so that those of a group share keys in the cache."""
    head = tl.program_id(0).to(tl.int64)
    tile = tl.load(heavy_first + tl.program_id(1))
    rows = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
    k += (head // GROUP) * stride_kh
    v += (head // GROUP) * stride_vh
    q_tile = load_rows(q + head * stride_qh, rows, tokens, stride_qn, HEAD, WIDTH, UPCAST)

    acc = tl.zeros([BLOCK_Q, WIDTH], tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    most = tl.full([BLOCK_Q], -float("inf"), tl.float32)
    first, middle, last = tl.load(start + tile), tl.load(full + tile), tl.load(stop + tile)
    acc, total, most = _fold(
        acc, total, most, q_tile, k, v, sub_end, key_tile, first, middle, rows, tokens, stride_kn, stride_vn, factor,
        False, HEAD, WIDTH, BLOCK_K, UPCAST,
    )  # fmt: skip
    acc, total, most = _fold(
        acc, total, most, q_tile, k, v, sub_end, key_tile, middle, last, rows, tokens, stride_kn, stride_vn, factor,
        True, HEAD, WIDTH, BLOCK_K, UPCAST,
    )  # fmt: skip

    # Rows past the last token have no weight at all; they are not stored, but they must not divide by 0.
    total = tl.where(rows < tokens, total, 1.0)
    store_rows(out + head * stride_oh, acc / total[:, None], rows, tokens, stride_on, HEAD, WIDTH)
    natural = (most + tl.log2(total)) * 0.6931471805599453
    tl.store(lse + head * tokens + rows, natural, mask=rows < tokens)
