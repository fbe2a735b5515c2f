"""Attention over packed trees: what siblings share is computed once, and each token sees its own path only.

    o_i = sum_j softmax_j(scale * q_i . k_j) v_j        over keys j with  j <= i < sub_end[j]

Shapes: N tokens of the pack, nq query heads, nkv key heads, d head size
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ...errors import DataError
from ..dispatch import Backend, choose, fails_its_trial, forced, triton_refuses
from ..tree_layout import TreeLayout

Attention = Callable[[Tensor, Tensor, Tensor, TreeLayout, float], Tensor]
HALF = (torch.bfloat16, torch.float16)
MOST_OFF = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 1e-2}
"""By dtype: relative distance from the formulas that rounding explains."""


def tree_attention(q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, *, scale: float | None = None) -> Tensor:
    """Attention of every token to its path.

    Differentiable in ``q``, ``k`` and ``v``. Deterministic, except through ``fa``, ``flex`` and, on a GPU, ``sdpa``,
    whose gradients may be summed in any order. Which implementation runs is :mod:`laconic.kernels.dispatch`'s choice.

    Args:
        q: queries (N, nq, d), rotary embedding applied.
        k: keys (N, nkv, d); nq is a multiple of nkv, and query head h reads key head ``h // (nq / nkv)``.
        v: values (N, nkv, d).
        layout: of the N tokens.
        scale: factor on the scores, above 0; by default 1 / sqrt(d).

    Returns:
        (N, nq, d), in the dtype of ``q``.

    Raises:
        DataError: shapes, dtypes or devices that don't fit together.

    Example:
        >>> layout = TreeLayout.of_nodes(parent_M=[-1, 0, 0], length_M=[5, 3, 2])   # a prompt, two responses
        >>> q, k, v = torch.randn(10, 8, 64), torch.randn(10, 2, 64), torch.randn(10, 2, 64)
        >>> tree_attention(q, k, v, layout).shape
        torch.Size([10, 8, 64])
    """
    _refuse_misfits(q, k, v, layout)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    if not scale > 0:
        raise DataError(f"the scale of the scores is {scale} but must be above 0; leave it out for 1 / sqrt(d)")
    attention: Attention = choose("tree_attention", BACKENDS, q, k, v, layout).load()
    return attention(q, k, v, layout, scale)


def _refuse_misfits(q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout) -> None:
    tokens, dim = len(layout), q.shape[-1] if q.ndim else 0
    shapes_fit = q.ndim == 3 and k.ndim == 3 and k.shape == v.shape and k.shape[::2] == q.shape[::2] == (tokens, dim)
    if not shapes_fit or k.shape[1] == 0 or q.shape[1] % k.shape[1] != 0:
        raise DataError(
            f"q, k and v have shapes {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)} for a layout of {tokens} "
            "tokens; pass (tokens, query heads, d) and twice (tokens, key heads, d), the first heads a multiple"
        )
    if not (q.dtype == k.dtype == v.dtype and q.dtype.is_floating_point and q.device == k.device == v.device):
        raise DataError(
            f"q, k and v are {q.dtype} on {q.device}, {k.dtype} on {k.device} and {v.dtype} on {v.device}; pass one "
            "floating dtype on one device"
        )


def _load_reference() -> Attention:
    from .reference import tree_attention as attention

    return attention


def _load_sdpa() -> Attention:
    from .sdpa import attention

    return attention


def _load_flex() -> Attention:
    from .flex import attention

    return attention


def _load_decomposed() -> Attention:
    from .decomposed import attention

    return attention


def _load_triton() -> Attention:
    from .fused import attention

    return attention


def _triton_refuses(q: Tensor, k: Tensor, *others: Any) -> str | None:
    if q.shape[-1] > 256:
        return f"head size {q.shape[-1]} is above 256"
    if q.dtype not in MOST_OFF:
        return f"tensors of {q.dtype}"
    return triton_refuses(q) or _triton_fails(q, k)


def _triton_fails(q: Tensor, k: Tensor) -> str | None:
    def error() -> float:
        from . import trial

        return trial.error(q, k)

    kernel = ("tree_attention", str(q.device), q.dtype, q.shape[-1], q.shape[1] // k.shape[1])
    return fails_its_trial(kernel, error, MOST_OFF[q.dtype])


def _flex_refuses(q: Tensor, k: Tensor, *others: Any) -> str | None:
    if q.device.type != "cuda":
        return f"the tensors are on {q.device.type}, where FlexAttention has no backward pass"
    if q.shape[-1] & (q.shape[-1] - 1) or q.shape[-1] < 16:
        return f"head size {q.shape[-1]} is no power of two from 16"
    if find_spec("triton") is None:
        return "triton, which it is compiled to, is not installed"
    return "float64 tensors" if q.dtype == torch.float64 else None


def _decomposed_refuses(q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout) -> str | None:
    if q.device.type == "cpu":
        return None if forced() == "fa" else "on a CPU units of the pack are faster"
    if q.device.type != "cuda":
        return f"torch has no fused attention on {q.device.type}"
    if q.dtype not in HALF:
        return f"torch's fused attention takes bfloat16 and float16, not {q.dtype}"
    if q.shape[-1] > 256 or q.shape[-1] % 8:
        return f"head size {q.shape[-1]} is above 256 or no multiple of 8"
    return None


def _never_refuses(*tensors: Any) -> str | None:
    return None


BACKENDS = (
    Backend("triton", _triton_refuses, _load_triton),
    # Compiled through Triton as well, and untried: where our kernels fail their trial, it may fail too.
    Backend("flex", _flex_refuses, _load_flex, automatic=False),
    Backend("fa", _decomposed_refuses, _load_decomposed),
    Backend("sdpa", _never_refuses, _load_sdpa),
    Backend("ref", _never_refuses, _load_reference, automatic=False),
)
