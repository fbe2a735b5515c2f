"""Policy-gradient loss of tokens with two weights each: value, gradient and counts in one pass.

    loss = sum -W (w_pos f+(rho) + w_neg f-(rho)) - w_nll log pi + kl w_kl KL - entropy w_ent H

rho = exp(log pi - log pi_old); f+ and f- are those of PPO's clipping, GPPO, CISPO, SAPO or rho itself; W corrects for
the engine; KL is k1, k2 or k3. Formulas: ``reference.py``; why two weights per token are enough: README.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..dispatch import Backend, choose, distance, fails_its_trial, triton_refuses
from .reference import pg_loss_reference
from .spec import METRICS, LossSpec, PgLoss

# Shapes: M tokens

__all__ = ["METRICS", "LossSpec", "PgLoss", "pg_loss"]


def pg_loss(
    log_probs_M: Tensor, entropy_M: Tensor, old_logp_M: Tensor, ref_logp_M: Tensor, *,
    w_pos_M: Tensor, w_neg_M: Tensor, w_kl_M: Tensor, w_ent_M: Tensor, w_nll_M: Tensor, spec: LossSpec,
    engine_logp_M: Tensor | None = None,
) -> PgLoss:  # fmt: skip
    """The loss of ``spec`` over M tokens, all ``(M,)`` on one device; differentiable in log-probs and entropies.

    ``old_logp_M`` is NaN where a ratio counts as 1, ``ref_logp_M`` may be NaN where ``w_kl`` is 0, and neither is read
    for a term that is switched off. ``engine_logp_M`` None means: as the old ones. Deterministic. M may be 0.

    >>> loss, counts = pg_loss(logp, entropy, old, ref, spec=LossSpec("clip", kl=0.01), w_pos_M=..., ...)

    Raises:
        ValueError: the shapes differ.
    """
    weights = (w_pos_M, w_neg_M, w_kl_M, w_ent_M, w_nll_M)
    engine_M = old_logp_M if engine_logp_M is None else engine_logp_M
    shapes = {tuple(x.shape) for x in (log_probs_M, entropy_M, old_logp_M, ref_logp_M, engine_M, *weights)}
    if len(shapes) != 1 or log_probs_M.dim() != 1:
        raise ValueError(f"the shapes {sorted(shapes)} differ, but every argument has one value per token, (M,)")
    run = choose("pg_loss", _BACKENDS, log_probs_M, spec).load()
    result: PgLoss = run(log_probs_M, entropy_M, old_logp_M, ref_logp_M, engine_M, *weights, spec)
    return result


def _triton_refuses(log_probs_M: Tensor, spec: LossSpec) -> str | None:
    if log_probs_M.itemsize == 8:
        return "it computes in float32, and float64 was given"
    device = log_probs_M.device
    kernel = ("pg_loss", str(device), spec)
    return triton_refuses(log_probs_M) or fails_its_trial(kernel, lambda: _error_of_triton(device, spec), 1e-3)


@torch.enable_grad()
def _error_of_triton(device: torch.device, spec: LossSpec) -> float:
    """Distance of the kernel's loss, gradients and counts from the twin's in float64, on tokens of every kind."""
    generator, tokens = torch.Generator().manual_seed(0), 3000
    logp, old, ref, engine, *others = torch.randn(10, tokens, generator=generator) * 0.3 - 1
    old[::7], engine[::5], old[1::11] = torch.nan, torch.nan, logp[1::11] - 25
    entropy, w_pos, w_neg, w_kl, w_ent, w_nll = (x + 1 for x in others)
    signed = (w_pos.clamp(min=0), w_neg.clamp(max=0), w_kl.abs(), w_ent.abs(), w_nll.clamp(min=0))
    for weight in signed:
        weight[1::11] *= 1e-8  # the ratio is e^20 there, and would hide what is wrong with the others
    given = [x.to(device) for x in (logp, entropy, old, ref, engine, *signed)]
    found = []
    for way, dtype in ((_load_triton(), torch.float32), (pg_loss_reference, torch.float64)):
        leaves = [x.to(dtype).requires_grad_() for x in given[:2]]
        arguments: list[Any] = [*leaves, *(x.to(dtype) for x in given[2:]), spec]
        loss, counts = way(*arguments)
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        by_each = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)]
        found.append([loss, *by_each, *counts.values()])
    return distance(*found)


def _load_triton() -> Callable[..., PgLoss]:
    from .triton_loss import pg_loss_triton

    return pg_loss_triton


_BACKENDS = (
    Backend("triton", _triton_refuses, _load_triton),
    Backend("ref", lambda *_: None, lambda: pg_loss_reference),
)
