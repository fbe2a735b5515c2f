"""Tree attention in Triton, backward: probabilities are computed again from the stored log-sum-exp.

    D_i  = sum_c dO_ic O_ic                 P_ij = exp(scale * q_i . k_j - lse_i)
    dV_j = sum_i P_ij dO_i                  dS_ij = P_ij (dO_i . v_j - D_i)
    dQ_i = scale * sum_j dS_ij K_j          dK_j = scale * sum_i dS_ij Q_i

A key's sum runs over everything below it, so a shared prefix gets what each of its descendants owes it. One program
owns a tile of keys of one key head and goes through the query heads of its group: nothing is added atomically, and
two runs give the same bits. The query tiles that meet a key tile are one range; where the range is long (a prompt sees
the whole tree) it is cut into parts with float32 sums of their own, which another kernel adds up in a fixed order.

Shapes: N tokens, nq query heads, nkv key heads, g = nq / nkv, d head size (WIDTH: d up to a power of two)
Source: FlashAttention-2 (arXiv 2307.08691).
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_fwd import load_rows, store_rows


@triton.jit(do_not_specialize=["tokens"])
def tree_attn_bwd_delta_kernel(
    out, dout, delta, tokens, stride_on, stride_oh, stride_dn, stride_dh,
    HEAD: tl.constexpr, WIDTH: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """Grid (nq, query tiles): D, (nq, N)."""
    head = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    o_tile = load_rows(out + head * stride_oh, rows, tokens, stride_on, HEAD, WIDTH, True)
    do_tile = load_rows(dout + head * stride_dh, rows, tokens, stride_dn, HEAD, WIDTH, True)
    tl.store(delta + head * tokens + rows, tl.sum(o_tile * do_tile, 1), mask=rows < tokens)


@triton.jit
def _add_dq(
    dq_tile, q_tile, do_tile, base, delta_tile, k, v, sub_end, key_tile, first, last, rows, tokens,
    stride_k, stride_v, factor,
    MASKED: tl.constexpr, HEAD: tl.constexpr, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    for at in range(first, last):
        cols = tl.load(key_tile + at) * BLOCK_K + tl.arange(0, BLOCK_K)
        keys = load_rows(k, cols, tokens, stride_k, HEAD, WIDTH, UPCAST)
        values = load_rows(v, cols, tokens, stride_v, HEAD, WIDTH, UPCAST)
        scores = tl.dot(q_tile, tl.trans(keys), input_precision="ieee")
        weights = tl.exp2(scores * factor - base[:, None])
        if MASKED:
            end = tl.load(sub_end + cols, mask=cols < tokens, other=0)
            seen = (cols[None, :] <= rows[:, None]) & (rows[:, None] < end[None, :])
            weights = tl.where(seen, weights, 0.0)
        dweights = tl.dot(do_tile, tl.trans(values), input_precision="ieee")
        dscores = weights * (dweights - delta_tile[:, None])
        dq_tile = tl.dot(dscores.to(keys.dtype), keys, dq_tile, input_precision="ieee")
    return dq_tile


@triton.jit(do_not_specialize=["tokens"])
def tree_attn_bwd_dq_kernel(
    q, k, v, dout, lse, delta, dq, sub_end, start, full, stop, key_tile, heavy_first, tokens,
    stride_qn, stride_qh, stride_kn, stride_kh, stride_vn, stride_vh, stride_dn, stride_dh, scale, factor,
    GROUP: tl.constexpr, HEAD: tl.constexpr, WIDTH: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """Grid (nq, query tiles). ``dq`` is (N, nq, d) and contiguous."""
    head = tl.program_id(0).to(tl.int64)
    tile = tl.load(heavy_first + tl.program_id(1))
    rows = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
    k += (head // GROUP) * stride_kh
    v += (head // GROUP) * stride_vh
    q_tile = load_rows(q + head * stride_qh, rows, tokens, stride_qn, HEAD, WIDTH, UPCAST)
    do_tile = load_rows(dout + head * stride_dh, rows, tokens, stride_dn, HEAD, WIDTH, UPCAST)
    base = tl.load(lse + head * tokens + rows, mask=rows < tokens, other=0.0) * 1.4426950408889634
    delta_tile = tl.load(delta + head * tokens + rows, mask=rows < tokens, other=0.0)

    dq_tile = tl.zeros([BLOCK_Q, WIDTH], tl.float32)
    first, middle, last = tl.load(start + tile), tl.load(full + tile), tl.load(stop + tile)
    dq_tile = _add_dq(
        dq_tile, q_tile, do_tile, base, delta_tile, k, v, sub_end, key_tile, first, middle, rows, tokens,
        stride_kn, stride_vn, factor, False, HEAD, WIDTH, BLOCK_K, UPCAST,
    )  # fmt: skip
    dq_tile = _add_dq(
        dq_tile, q_tile, do_tile, base, delta_tile, k, v, sub_end, key_tile, middle, last, rows, tokens,
        stride_kn, stride_vn, factor, True, HEAD, WIDTH, BLOCK_K, UPCAST,
    )  # fmt: skip
    stride = tl.num_programs(0) * HEAD
    store_rows(dq + head * HEAD, dq_tile * scale, rows, tokens, stride, HEAD, WIDTH)


@triton.jit
def _add_dk_dv(
    dk_tile, dv_tile, keys, values, end, cols, q, dout, lse, delta, first, last, skip_from, skip_to, tokens,
    stride_q, stride_d, factor,
    MASKED: tl.constexpr, HEAD: tl.constexpr, WIDTH: tl.constexpr, BLOCK_Q: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Query tiles [first, last) without [skip_from, skip_to)."""
    for at in range(first, last - (skip_to - skip_from)):
        tile = tl.where(at < skip_from, at, at + skip_to - skip_from)
        rows = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
        q_tile = load_rows(q, rows, tokens, stride_q, HEAD, WIDTH, UPCAST)
        do_tile = load_rows(dout, rows, tokens, stride_d, HEAD, WIDTH, UPCAST)
        base = tl.load(lse + rows, mask=rows < tokens, other=0.0) * 1.4426950408889634
        delta_tile = tl.load(delta + rows, mask=rows < tokens, other=0.0)
        scores = tl.dot(keys, tl.trans(q_tile), input_precision="ieee")
        weights = tl.exp2(scores * factor - base[None, :])
        if MASKED:
            seen = (cols[:, None] <= rows[None, :]) & (rows[None, :] < end[:, None])
            weights = tl.where(seen, weights, 0.0)
        dv_tile = tl.dot(weights.to(do_tile.dtype), do_tile, dv_tile, input_precision="ieee")
        dweights = tl.dot(values, tl.trans(do_tile), input_precision="ieee")
        dscores = weights * (dweights - delta_tile[None, :])
        dk_tile = tl.dot(dscores.to(q_tile.dtype), q_tile, dk_tile, input_precision="ieee")
    return dk_tile, dv_tile


@triton.jit(do_not_specialize=["tokens"])
def tree_attn_bwd_dkdv_kernel(
    q, k, v, dout, lse, delta, dk, dv, dk_parts, dv_parts, sub_end, items, tokens,
    stride_qn, stride_qh, stride_kn, stride_kh, stride_vn, stride_vh, stride_dn, stride_dh, scale, factor,
    GROUP: tl.constexpr, HEAD: tl.constexpr, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_Q: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """Grid (nkv, items). ``dk``, ``dv`` are (N, nkv, d), the parts (slots, nkv, BLOCK_K, d), all contiguous."""
    head, heads = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    item = items + tl.program_id(1) * 6
    tile, slot = tl.load(item), tl.load(item + 5)
    first, full_first, full_last, last = tl.load(item + 1), tl.load(item + 2), tl.load(item + 3), tl.load(item + 4)
    cols = tile * BLOCK_K + tl.arange(0, BLOCK_K)
    end = tl.load(sub_end + cols, mask=cols < tokens, other=0)
    keys = load_rows(k + head * stride_kh, cols, tokens, stride_kn, HEAD, WIDTH, UPCAST)
    values = load_rows(v + head * stride_vh, cols, tokens, stride_vn, HEAD, WIDTH, UPCAST)

    dk_tile = tl.zeros([BLOCK_K, WIDTH], tl.float32)
    dv_tile = tl.zeros([BLOCK_K, WIDTH], tl.float32)
    for member in range(GROUP):
        query_head = head * GROUP + member
        q_head, do_head = q + query_head * stride_qh, dout + query_head * stride_dh
        lse_head, delta_head = lse + query_head * tokens, delta + query_head * tokens
        dk_tile, dv_tile = _add_dk_dv(
            dk_tile, dv_tile, keys, values, end, cols, q_head, do_head, lse_head, delta_head,
            full_first, full_last, full_last, full_last, tokens, stride_qn, stride_dn, factor,
            False, HEAD, WIDTH, BLOCK_Q, UPCAST,
        )  # fmt: skip
        dk_tile, dv_tile = _add_dk_dv(
            dk_tile, dv_tile, keys, values, end, cols, q_head, do_head, lse_head, delta_head,
            first, last, full_first, full_last, tokens, stride_qn, stride_dn, factor,
            True, HEAD, WIDTH, BLOCK_Q, UPCAST,
        )  # fmt: skip
    dk_tile *= scale

    if slot < 0:
        store_rows(dk + head * HEAD, dk_tile, cols, tokens, heads * HEAD, HEAD, WIDTH)
        store_rows(dv + head * HEAD, dv_tile, cols, tokens, heads * HEAD, HEAD, WIDTH)
    else:
        at = (slot * heads + head) * BLOCK_K * HEAD
        own = tl.arange(0, BLOCK_K)
        store_rows(dk_parts + at, dk_tile, own, BLOCK_K, HEAD, HEAD, WIDTH)
        store_rows(dv_parts + at, dv_tile, own, BLOCK_K, HEAD, HEAD, WIDTH)


@triton.jit(do_not_specialize=["tokens"])
def tree_attn_bwd_add_parts_kernel(
    dk, dv, dk_parts, dv_parts, sums, tokens, HEAD: tl.constexpr, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr
):
    """Grid (nkv, key tiles with parts): parts [slot, last slot) of a tile added up in this order."""
    head, heads = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    entry = sums + tl.program_id(1) * 3
    tile, slot, last = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2)
    own = tl.arange(0, BLOCK_K)
    dk_tile = tl.zeros([BLOCK_K, WIDTH], tl.float32)
    dv_tile = tl.zeros([BLOCK_K, WIDTH], tl.float32)
    for part in range(slot, last):
        at = (part * heads + head) * BLOCK_K * HEAD
        dk_tile += load_rows(dk_parts + at, own, BLOCK_K, HEAD, HEAD, WIDTH, False)
        dv_tile += load_rows(dv_parts + at, own, BLOCK_K, HEAD, HEAD, WIDTH, False)
    cols = tile * BLOCK_K + own
    store_rows(dk + head * HEAD, dk_tile, cols, tokens, heads * HEAD, HEAD, WIDTH)
    store_rows(dv + head * HEAD, dv_tile, cols, tokens, heads * HEAD, HEAD, WIDTH)
