"""Log-probs of chosen words and entropies, without the logits of all tokens in memory.

    z = cap(scale (h W^T + b)) / temperature        log_prob = z[target] - logsumexp(z)        entropy = -sum p log p

The logits are float32 (float64 for operands in float64) whatever the type of the operands, and exist one tile at a
time. Formulas of both passes: ``folds.py``; loop and precision: ``tiled.py``; derivation: README.md.

Source: Cut Cross-Entropy, arXiv 2411.09009; trl 1.16 ``ChunkedLogProbFunction``; Liger-Kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..dispatch import Backend, choose, distance, fails_its_trial, triton_refuses
from .folds import Folds, TorchFolds, Transform
from .reference import fused_logprob_reference
from .tiled import Gather, TiledLogProb, operand_type

# Shapes: M tokens, H hidden size, V vocabulary

__all__ = ["fused_logprob"]


def fused_logprob(
    hidden_MH: Tensor, weight_VH: Tensor, targets_M: Tensor, *, bias: Tensor | None = None, temperature: float = 1.0,
    scale: float = 1.0, soft_cap: float | None = None, gather: Gather = lambda *_: nullcontext(),
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """``(log_probs_M, entropy_M)`` in nats, float32, differentiable in hidden states, weight and bias.

    Args:
        hidden_MH: one hidden state per target, already gathered; float64, float32, bfloat16 or float16.
        weight_VH: of the head; rows that only pad the vocabulary are cut off by the caller.
        targets_M: int64, from 0 to V - 1.
        bias: of the head (V,).
        temperature: above 0.
        scale: factor on the logits, before the soft cap.
        soft_cap: y becomes ``soft_cap * tanh(y / soft_cap)``.
        gather: ``gather(weight_VH, bias)`` is entered around the backward pass where the head is sharded.

    M = 0 gives empty results that belong to the graph. Deterministic.

    >>> log_probs_M, entropy_M = fused_logprob(hidden_NH[pred_M], head.weight, targets_M, temperature=0.6)

    Raises:
        ValueError: the shapes do not fit together.
    """
    if hidden_MH.dim() != 2 or weight_VH.dim() != 2 or hidden_MH.shape[1] != weight_VH.shape[1]:
        raise ValueError(
            f"hidden states are {tuple(hidden_MH.shape)} and the weight {tuple(weight_VH.shape)}, but they must be "
            "(M, H) and (V, H)"
        )
    if targets_M.shape != hidden_MH.shape[:1] or (bias is not None and bias.shape != weight_VH.shape[:1]):
        raise ValueError(
            f"targets are {tuple(targets_M.shape)} and the bias {None if bias is None else tuple(bias.shape)}, but "
            f"they must be {tuple(hidden_MH.shape[:1])} and {tuple(weight_VH.shape[:1])}"
        )
    run = choose("fused_logprob", _BACKENDS, hidden_MH, weight_VH).load()
    log_probs_M, entropy_M = run(hidden_MH, weight_VH, targets_M, bias, temperature, scale, soft_cap, gather)
    return log_probs_M, entropy_M


def _by(folds: Folds) -> Callable[..., tuple[Tensor, Tensor]]:
    def run(
        hidden_MH: Tensor, weight_VH: Tensor, targets_M: Tensor, bias: Tensor | None, temperature: float, scale: float,
        soft_cap: float | None, gather: Gather,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        transform = Transform(temperature, scale, soft_cap)
        result: Any = TiledLogProb.apply(hidden_MH, weight_VH, bias, targets_M.contiguous(), transform, folds, gather)
        return result[0], result[1]

    return run


def _by_all_logits(
    hidden_MH: Tensor, weight_VH: Tensor, targets_M: Tensor, bias: Tensor | None, temperature: float, scale: float,
    soft_cap: float | None, gather: Gather,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return fused_logprob_reference(hidden_MH, weight_VH, targets_M, bias, temperature, scale, soft_cap)


def _triton_refuses(hidden_MH: Tensor, weight_VH: Tensor) -> str | None:
    if hidden_MH.dtype == torch.float64:
        return "it computes in float32, and float64 was given"
    device, operand = hidden_MH.device, operand_type(hidden_MH)
    kernel = ("fused_logprob", str(device), operand)
    most = 5e-3 if operand == torch.float32 else 1e-2  # products of float32 may be TF32
    return triton_refuses(hidden_MH, weight_VH) or fails_its_trial(
        kernel, lambda: _error_of_triton(device, operand), most
    )


@torch.enable_grad()
def _error_of_triton(device: torch.device, operand: torch.dtype) -> float:
    """Distance of results and gradients from the twin's in float64: two tiles of words, with and without cap."""
    generator, run, worst = torch.Generator().manual_seed(0), _load_triton(), 0.0
    shapes = {"hidden": (40, 32), "weight": (9000, 32), "bias": (9000,), "by_logp": (40,), "by_entropy": (40,)}
    given = {name: torch.randn(shape, generator=generator).to(device) for name, shape in shapes.items()}
    targets_M = torch.randint(9000, (40,), generator=generator).to(device)
    operands = [given[name].to(operand) for name in ("hidden", "weight", "bias")]
    for soft_cap in (None, 5.0):
        found = []
        with torch.autocast(device.type, enabled=False):
            for way, dtype in ((run, operand), (_by_all_logits, torch.float64)):
                hidden, weight, bias = leaves = [x.to(dtype).requires_grad_() for x in operands]
                results = way(hidden, weight, targets_M, bias, 0.7, 1.5, soft_cap, lambda *_: nullcontext())
                by = [given[name].to(results[0].dtype) for name in ("by_logp", "by_entropy")]
                found.append([*results, *torch.autograd.grad(results, leaves, by)])
        worst = max(worst, distance(*found))
    return worst


def _load_triton() -> Callable[..., tuple[Tensor, Tensor]]:
    from .triton_fold import TritonFolds

    return _by(TritonFolds())


_BACKENDS = (
    Backend("triton", _triton_refuses, _load_triton),
    Backend("sdpa", lambda hidden_MH, weight_VH: None, lambda: _by(TorchFolds())),
    Backend("ref", lambda hidden_MH, weight_VH: None, lambda: _by_all_logits, automatic=False),
)
