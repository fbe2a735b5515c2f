"""``cascade_decode`` as Triton kernels: partial attention per item of work, then a merge per query.

Partial, one program per item and KV head; its rows are the item's queries times the heads that share the KV head:

    s = (scale log2 e) q k^T    m, l, acc by online softmax in base 2    o = acc / l    lse = (m + log2 l) ln 2

Merge, one program per query and head, over the query's parts: the rule of ``merge_lse`` for many parts. A part is
float32; nothing is rounded before the end. Deterministic: every part has its own memory and the merge a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..dispatch import interpreting, on_device_of
from .plan import DecodePlan

# Shapes: S queries, Q query heads, H KV heads, D head width, E parts


@triton.jit
def _partial_kernel(
    q_ptr, k_ptr, v_ptr, items_ptr, pages_ptr, query_ptr, o_ptr, lse_ptr,
    q_row, q_head, k_page, k_token, k_head, v_page, v_token, v_head,
    heads, page_size, scale, GROUP: tl.constexpr, WIDTH: tl.constexpr, V_WIDTH: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, V_D: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    item = items_ptr + tl.program_id(0).to(tl.int64) * 5
    kv_head = tl.program_id(1).to(tl.int64)
    pages = pages_ptr + tl.load(item)
    start = tl.load(item + 1)
    stop = tl.load(item + 2)
    first_part = tl.load(item + 3)
    rows = tl.load(item + 4) * GROUP

    row = tl.arange(0, ROWS)
    real = row < rows
    part = (first_part + row // GROUP).to(tl.int64)
    query = tl.load(query_ptr + part, mask=real, other=0).to(tl.int64)
    head = kv_head * GROUP + row % GROUP
    d = tl.arange(0, D)
    v_d = tl.arange(0, V_D)
    at_q = query[:, None] * q_row + head[:, None] * q_head + d[None, :]
    q = tl.load(q_ptr + at_q, mask=real[:, None] & (d < WIDTH)[None, :], other=0.0)
    if UPCAST:
        q = q.to(tl.float32)
    top = tl.full((ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    acc = tl.zeros((ROWS, V_D), tl.float32)
    for begin in range(start, stop, KEYS):
        token = begin + tl.arange(0, KEYS)
        here = token < stop
        page = tl.load(pages + token // page_size, mask=here, other=0).to(tl.int64)
        place = (token % page_size).to(tl.int64)
        at_k = page * k_page + place * k_token + kv_head * k_head
        k = tl.load(k_ptr + at_k[None, :] + d[:, None], mask=here[None, :] & (d < WIDTH)[:, None], other=0.0)
        at_v = page * v_page + place * v_token + kv_head * v_head
        v = tl.load(v_ptr + at_v[:, None] + v_d[None, :], mask=here[:, None] & (v_d < V_WIDTH)[None, :], other=0.0)
        if UPCAST:
            k = k.to(tl.float32)
            v = v.to(tl.float32)
        s = tl.dot(q, k, input_precision="ieee") * (scale * 1.4426950408889634)
        # Every chunk has a key, so no row's maximum stays at -inf.
        s = tl.where(here[None, :], s, -float("inf"))
        new_top = tl.maximum(top, tl.max(s, 1))
        shrink = tl.exp2(top - new_top)
        p = tl.exp2(s - new_top[:, None])
        total = total * shrink + tl.sum(p, 1)
        acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        top = new_top
    at_part = part * heads + head
    at_o = at_part[:, None] * V_WIDTH + v_d[None, :]
    tl.store(o_ptr + at_o, acc / total[:, None], mask=real[:, None] & (v_d < V_WIDTH)[None, :])
    tl.store(lse_ptr + at_part, (top + tl.log2(total)) * 0.6931471805599453, mask=real)


@triton.jit
def _merge_kernel(
    part_o_ptr, part_lse_ptr, merge_ptr, merge_parts_ptr, o_ptr, lse_ptr, heads,
    V_WIDTH: tl.constexpr, V_D: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    query = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    first = tl.load(merge_ptr + query)
    last = tl.load(merge_ptr + query + 1)
    v_d = tl.arange(0, V_D)
    top = -float("inf")
    total = 0.0
    acc = tl.zeros((V_D,), tl.float32)
    for begin in range(first, last, PARTS):
        listed = begin + tl.arange(0, PARTS)
        here = listed < last
        at = tl.load(merge_parts_ptr + listed, mask=here, other=0).to(tl.int64) * heads + head
        lse = tl.load(part_lse_ptr + at, mask=here, other=-float("inf"))
        inside = here[:, None] & (v_d < V_WIDTH)[None, :]
        o = tl.load(part_o_ptr + at[:, None] * V_WIDTH + v_d[None, :], mask=inside, other=0.0)
        new_top = tl.maximum(top, tl.max(lse))
        shrink = tl.exp(top - new_top)
        weight = tl.exp(lse - new_top)
        total = total * shrink + tl.sum(weight)
        acc = acc * shrink + tl.sum(o * weight[:, None], 0)
        top = new_top
    out = query * heads + head
    # A query without keys has no parts: o = 0, lse = -inf.
    o = acc / tl.where(total == 0.0, 1.0, total)
    tl.store(o_ptr + out * V_WIDTH + v_d, o.to(o_ptr.dtype.element_ty), mask=v_d < V_WIDTH)
    tl.store(lse_ptr + out, top + tl.log(total))


def cascade_decode_triton(
    q_SQD: Tensor, k_pages: Tensor, v_pages: Tensor, plan: DecodePlan, scale: float
) -> tuple[Tensor, Tensor]:
    """As ``cascade_decode``; the last axis of all three must be contiguous."""
    heads, kv_heads, width, v_width = q_SQD.shape[1], k_pages.shape[2], q_SQD.shape[2], v_pages.shape[3]
    group, parts = heads // kv_heads, len(plan.part_query_E)
    part_o_EQD = q_SQD.new_empty((parts, heads, v_width), dtype=torch.float32)
    part_lse_EQ = q_SQD.new_empty((parts, heads), dtype=torch.float32)
    blocks = {"D": _block(width), "V_D": _block(v_width)}
    o_SQD = q_SQD.new_empty((plan.count, heads, v_width))
    lse_SQ = q_SQD.new_empty((plan.count, heads), dtype=torch.float32)
    with on_device_of(q_SQD):
        for launch in plan.launches:
            rows = max(16, triton.next_power_of_2(launch.most * group))
            small = q_SQD.itemsize > 2 or width > 128  # so that the stages of keys and values fit into shared memory
            keys = 16 if interpreting() else (32 if small else 64 if rows > 64 else 128)
            _partial_kernel[(len(launch.items_I5), kv_heads)](
                q_SQD, k_pages, v_pages, launch.items_I5, plan.pages, plan.part_query_E, part_o_EQD, part_lse_EQ,
                *q_SQD.stride()[:2], *k_pages.stride()[:3], *v_pages.stride()[:3], heads, plan.page_size, scale,
                GROUP=group, WIDTH=width, V_WIDTH=v_width, ROWS=rows, KEYS=keys, UPCAST=interpreting(),
                **blocks, num_warps=8 if rows > 64 else 4, num_stages=2 if small else 3,
            )  # fmt: skip
        if plan.count:
            _merge_kernel[(plan.count, heads)](
                part_o_EQD, part_lse_EQ, plan.merge_ptr, plan.merge_parts, o_SQD, lse_SQ, heads,
                V_WIDTH=v_width, V_D=triton.next_power_of_2(v_width), PARTS=8, num_warps=2,
            )  # fmt: skip
    return o_SQD, lse_SQ


def _block(width: int) -> int:
    """A matrix product takes powers of two from 16 on."""
    return max(16, triton.next_power_of_2(width))
