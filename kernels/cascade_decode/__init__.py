"""Decode attention that reads what sequences share once: one new token per sequence, many groups or trees at a time.

    o_s = softmax(scale q_s K_s^T) V_s        K_s, V_s: the segments of sequence s one after the other

A segment that several sequences see (the prompt of siblings, an inner node of a tree) is read once for all of them;
each sequence's parts are then merged by their log-sum-exp, which is exact. ``plan_decode`` says who sees what, once per
step and for all layers. Derivation, bytes and limits: README.md.

Source: Hydragen, arXiv 2402.05099; FlashInfer's cascade; DeFT, arXiv 2404.00242.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..dispatch import Backend, choose, triton_refuses
from .plan import DecodePlan, Segments, plan_decode
from .reference import cascade_decode_reference

# Shapes: S sequences, Q query heads, H KV heads, D head width

__all__ = ["DecodePlan", "Segments", "cascade_decode", "plan_decode"]


def cascade_decode(
    q_SQD: Tensor, k_pages: Tensor, v_pages: Tensor, plan: DecodePlan, *, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """``(o (S, Q, D), lse (S, Q) in nats)``; no gradients. Exact up to rounding; deterministic.

    Args:
        q_SQD: the new token of each sequence.
        k_pages, v_pages: ``(pages, page_size, H, D)``, Q a multiple of H; any strides with a contiguous last axis. A
            cache with a row per sequence is one whose pages are its rows.
        plan: made for this many sequences, heads and pages.
        scale: 1 / sqrt(D) by default.

    >>> segments = Segments.of([([0, 1], 0, 500, [0, 1]), ([2], 0, 37, [0]), ([3], 0, 12, [1])])
    >>> plan = plan_decode(segments, 2, 256, heads=12, kv_heads=2)
    >>> o_SQD, lse_SQ = cascade_decode(q_SQD, k_pages, v_pages, plan)

    Raises:
        ValueError: the shapes do not fit together.
    """
    if len(q_SQD) != plan.count or k_pages.shape[1] != plan.page_size or k_pages.shape[:3] != v_pages.shape[:3]:
        raise ValueError(
            f"queries are {tuple(q_SQD.shape)}, keys {tuple(k_pages.shape)}, values {tuple(v_pages.shape)}, but the "
            f"plan is for {plan.count} queries and pages of {plan.page_size} tokens; plan again"
        )
    if q_SQD.shape[1] % k_pages.shape[2] or q_SQD.shape[2] != k_pages.shape[3]:
        raise ValueError(
            f"queries are {tuple(q_SQD.shape)} and keys {tuple(k_pages.shape)}, but heads must be a multiple of KV "
            "heads and widths the same"
        )
    run = choose("cascade_decode", _BACKENDS, q_SQD, k_pages, v_pages).load()
    o_SQD, lse_SQ = run(q_SQD, k_pages, v_pages, plan, q_SQD.shape[2] ** -0.5 if scale is None else scale)
    return o_SQD, lse_SQ


def triton_decode_refuses(q_SQD: Tensor, k_pages: Tensor, v_pages: Tensor) -> str | None:
    """Why the Triton kernel can't run on these; None if it can."""
    if any(x.dtype == torch.float64 for x in (q_SQD, k_pages, v_pages)):
        return "it computes in float32, and float64 was given"
    if len({q_SQD.dtype, k_pages.dtype, v_pages.dtype}) > 1:
        return f"queries, keys and values are {q_SQD.dtype}, {k_pages.dtype} and {v_pages.dtype}, not of one type"
    if max(q_SQD.shape[2], v_pages.shape[3]) > 256:
        return f"the head width is {max(q_SQD.shape[2], v_pages.shape[3])}, and its tiles hold up to 256"
    if q_SQD.shape[1] // k_pages.shape[2] > 128:
        return f"{q_SQD.shape[1] // k_pages.shape[2]} query heads share a KV head, and its tiles hold up to 128 rows"
    if any(x.stride(-1) != 1 for x in (q_SQD, k_pages, v_pages)):
        return "the last axis is not contiguous"
    return triton_refuses(q_SQD, k_pages, v_pages)


def _load_triton() -> Callable[..., tuple[Tensor, Tensor]]:
    from .triton_decode import cascade_decode_triton

    return cascade_decode_triton


_BACKENDS = (
    Backend("triton", triton_decode_refuses, _load_triton),
    Backend("ref", lambda *_: None, lambda: cascade_decode_reference),
)
