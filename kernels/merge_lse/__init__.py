"""Merge two attention results over disjoint keys into the result over all of them.

    L = log(exp(L1) + exp(L2))        o = exp(L1 - L) o1 + exp(L2 - L) o2

A part without keys has L = -inf; two of those give o = 0 and L = -inf. Associative and commutative, so any tree of
parts may be merged in any order. Derivation and gradients: README.md.

Source: Hydragen, arXiv 2402.05099; FlashInfer's state; vLLM's merge_attn_states.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..dispatch import Backend, choose, distance, fails_its_trial, triton_refuses
from .reference import merge_lse_reference, merge_parts

# Shapes: ... any leading axes, D head width

__all__ = ["merge_lse", "merge_parts"]


def merge_lse(o1: Tensor, lse1: Tensor, o2: Tensor, lse2: Tensor) -> tuple[Tensor, Tensor]:
    """``(o, lse)`` over the keys of both parts, differentiable in all four.

    ``o1, o2 (..., D)`` of one type, ``lse1, lse2 (...)`` in nats. Exact up to rounding; deterministic.

    >>> o, lse = merge_lse(prefix_o, prefix_lse, suffix_o, suffix_lse)

    Raises:
        ValueError: the shapes do not fit together.
    """
    if o1.shape != o2.shape or lse1.shape != lse2.shape or o1.shape[:-1] != lse1.shape:
        raise ValueError(
            f"o1 and o2 are {tuple(o1.shape)} and {tuple(o2.shape)}, lse1 and lse2 {tuple(lse1.shape)} and "
            f"{tuple(lse2.shape)}, but parts must have the same shapes, and lse that of o without its last axis"
        )
    return choose("merge_lse", _BACKENDS, o1, lse1).load()(o1, lse1, o2, lse2)


def _triton_refuses(o: Tensor, lse: Tensor) -> str | None:
    if o.itemsize == 8 or lse.itemsize == 8:
        return "it computes in float32, and float64 was given"
    kernel = ("merge_lse", str(o.device), o.dtype, o.shape[-1])
    most = 1e-5 if o.dtype == torch.float32 else 1e-2
    return triton_refuses(o, lse) or fails_its_trial(kernel, lambda: _error_of_triton(o), most)


@torch.enable_grad()
def _error_of_triton(o: Tensor) -> float:
    """Distance of results and gradients from the twin's in float64, for parts like ``o``, some of them without keys."""
    generator, width = torch.Generator().manual_seed(0), o.shape[-1]
    o1, o2, by_o = torch.randn(3, 300, width, generator=generator).to(o.device, o.dtype)
    lse1, lse2, by_lse = torch.randn(3, 300, generator=generator).to(o.device)
    lse1[::3], lse2[::4] = -torch.inf, -torch.inf
    by_lse[::12] = 0  # neither part has keys
    found = []
    for way, dtype in ((_load_triton(), None), (merge_lse_reference, torch.float64)):
        leaves = [x.to(dtype or x.dtype, copy=True).requires_grad_() for x in (o1, lse1, o2, lse2)]
        merged, lse = way(*leaves)
        grads = torch.autograd.grad((merged, lse), leaves, (by_o.to(merged.dtype), by_lse.to(lse.dtype)))
        found.append([merged, lse.exp(), *grads])
    return distance(*found)


def _load_triton() -> Callable[..., tuple[Tensor, Tensor]]:
    from .triton_merge import merge_lse_triton

    return merge_lse_triton


_BACKENDS = (
    Backend("triton", _triton_refuses, _load_triton),
    Backend("ref", lambda *_: None, lambda: merge_lse_reference),
)
