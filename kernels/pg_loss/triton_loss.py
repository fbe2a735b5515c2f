"""``pg_loss`` as one Triton kernel: loss, gradient and counts in one read of each token's numbers.

Every program takes a block of tokens, writes u = d loss / d log pi of each and one row of sums; the rows are added
afterwards in a fixed order, so two runs agree bit for bit. u stays in memory until the backward pass multiplies it
with the gradient of the loss; the gradient along the entropy is -entropy w_ent and needs no kernel.

    d rho / d log pi = rho inside the clamp of the log-ratio, 0 outside
    clip    u = -W rho (w_pos [rho <= 1 + e_hi] + w_neg [1 - e_lo <= rho <= ceiling])
    gppo    likewise, but beyond the bounds beta (1 +- e) in place of rho
    cispo   u = -W min(rho, cap) (w_pos + w_neg)
    sapo    u = -W rho (w_pos 4 s (1 - s) + ...),  s = sigmoid(tau (rho - 1))
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..dispatch import on_device_of
from .reference import MAX_LOG_RATIO
from .spec import METRICS, LossSpec, PgLoss

# Shapes: M tokens, P programs

_BLOCK = 1024
_COUNTS = 16
_GAINS = {"ratio": 0, "clip": 1, "gppo": 2, "cispo": 3, "sapo": 4}
_KLS = {"k1": 1, "k2": 2, "k3": 3}


@triton.jit
def _clamped(x, LIMIT: tl.constexpr):
    # minimum and maximum may drop a NaN, which would hide it from the loss
    return tl.where(x == x, tl.minimum(tl.maximum(x, -LIMIT), LIMIT), x)


@triton.jit
def _kernel(
    logp_ptr, entropy_ptr, old_ptr, ref_ptr, engine_ptr,
    w_pos_ptr, w_neg_ptr, w_kl_ptr, w_ent_ptr, w_nll_ptr, u_ptr, sums_ptr,
    tokens, low, high, ceiling, beta_low, beta_high, cap, tau_pos, tau_neg,
    kl_weight, entropy_weight, importance_cap,
    GAIN: tl.constexpr, KL: tl.constexpr, CORRECTED: tl.constexpr, IMPORTANCE: tl.constexpr, ENTROPY: tl.constexpr,
    LIMIT: tl.constexpr, COUNTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    token = program * BLOCK + tl.arange(0, BLOCK)
    here = token < tokens
    logp = tl.load(logp_ptr + token, mask=here, other=0.0)
    old = tl.load(old_ptr + token, mask=here, other=0.0)
    w_pos = tl.load(w_pos_ptr + token, mask=here, other=0.0)
    w_neg = tl.load(w_neg_ptr + token, mask=here, other=0.0)
    w_nll = tl.load(w_nll_ptr + token, mask=here, other=0.0)

    known = old == old
    log_ratio = logp - tl.where(known, old, logp)
    ratio = tl.exp(_clamped(log_ratio, LIMIT))
    # d ratio / d log pi
    slope = tl.where((log_ratio >= -LIMIT) & (log_ratio <= LIMIT), ratio, 0.0)
    both = w_pos + w_neg
    above = ratio > high
    below = ratio < low
    clipped_high = tl.zeros((BLOCK,), tl.float32)
    clipped_low = tl.zeros((BLOCK,), tl.float32)
    if GAIN == 0:
        gain = both * ratio
        pull = both * slope
    elif GAIN == 1:
        floored = tl.minimum(tl.maximum(ratio, low), ceiling)
        gain = w_pos * tl.minimum(ratio, high) + w_neg * floored
        inside = (ratio >= low) & (ratio <= ceiling)
        pull = w_pos * tl.where(above, 0.0, slope) + w_neg * tl.where(inside, slope, 0.0)
    elif GAIN == 2:
        floored = tl.where(below, beta_low * low, ratio)
        falling = tl.where(floored > ceiling, 0.0, tl.where(below, beta_low * low, slope))
        gain = w_pos * tl.where(above, beta_high * high, ratio) + w_neg * tl.minimum(floored, ceiling)
        pull = w_pos * tl.where(above, beta_high * high, slope) + w_neg * falling
    elif GAIN == 3:
        pull = tl.minimum(ratio, cap) * both
        gain = pull * logp
    else:
        s_pos = tl.sigmoid(tau_pos * (ratio - 1.0))
        s_neg = tl.sigmoid(tau_neg * (ratio - 1.0))
        gain = w_pos * s_pos * (4.0 / tau_pos) + w_neg * s_neg * (4.0 / tau_neg)
        pull = 4.0 * slope * (w_pos * s_pos * (1.0 - s_pos) + w_neg * s_neg * (1.0 - s_neg))
    if (GAIN == 1) or (GAIN == 2):
        clipped_high = tl.where((w_pos > 0.0) & above, 1.0, 0.0)
        clipped_low = tl.where((w_neg < 0.0) & below, 1.0, 0.0)
    if GAIN == 3:
        clipped_high = tl.where((both != 0.0) & (ratio > cap), 1.0, 0.0)

    importance = tl.zeros((BLOCK,), tl.float32)
    capped = tl.zeros((BLOCK,), tl.float32)
    if IMPORTANCE:
        excess = old - tl.load(engine_ptr + token, mask=here, other=0.0)
        excess = tl.where(excess == excess, excess, 0.0)
        importance = tl.minimum(tl.exp(_clamped(excess, LIMIT)), importance_cap)
        capped = tl.where(importance >= importance_cap, 1.0, 0.0)
        gain *= importance
        pull *= importance
    loss = -gain - w_nll * logp
    u = -pull - w_nll

    kl = tl.zeros((BLOCK,), tl.float32)
    if KL > 0:
        w_kl = tl.load(w_kl_ptr + token, mask=here, other=0.0)
        ref = tl.load(ref_ptr + token, mask=here, other=0.0)
        ref = tl.where((w_kl == 0.0) & (ref != ref), logp, ref)
        away = ref - logp
        difference = _clamped(away, LIMIT)
        if KL == 1:
            kl = -difference
            kl_pull = tl.full((BLOCK,), 1.0, tl.float32)
        elif KL == 2:
            kl = difference * difference * 0.5
            kl_pull = -difference
        else:
            kl = tl.exp(difference) - difference - 1.0
            kl_pull = 1.0 - tl.exp(difference)
        kl_pull = tl.where((away >= -LIMIT) & (away <= LIMIT), kl_pull, 0.0)
        term = kl
        if CORRECTED:
            term = kl * ratio
            kl_pull = kl_pull * ratio
            if KL != 2:
                kl_pull += kl * slope
        loss += kl_weight * w_kl * term
        u += kl_weight * w_kl * kl_pull
    entropy = tl.load(entropy_ptr + token, mask=here, other=0.0)
    if ENTROPY:
        loss -= entropy_weight * tl.load(w_ent_ptr + token, mask=here, other=0.0) * entropy
    tl.store(u_ptr + token, tl.where(logp == logp, u, logp), mask=here)

    row = sums_ptr + program * COUNTS
    tl.store(row, tl.sum(tl.where(here, loss, 0.0)))
    tl.store(row + 1, tl.sum(tl.where(here, 1.0, 0.0)))
    tl.store(row + 2, tl.sum(tl.where(here, entropy, 0.0)))
    tl.store(row + 3, tl.max(tl.where(here, ratio, 0.0)))
    tl.store(row + 4, tl.sum(tl.where(here, 1.0 / ratio + tl.log(ratio) - 1.0, 0.0)))
    tl.store(row + 5, tl.sum(tl.where(here, clipped_high, 0.0)))
    tl.store(row + 6, tl.sum(tl.where(here, clipped_low, 0.0)))
    tl.store(row + 7, tl.sum(tl.where(here, importance, 0.0)))
    tl.store(row + 8, tl.sum(tl.where(here, capped, 0.0)))
    tl.store(row + 9, tl.sum(tl.where(here, kl, 0.0)))
    tl.store(row + 10, tl.sum(tl.where(here & (w_nll > 0.0), 1.0, 0.0)))


class _PgLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, log_probs_M: Tensor, entropy_M: Tensor, spec: LossSpec, *given: Tensor
    ) -> tuple[Tensor, Tensor]:
        tokens = [x.detach().float().contiguous() for x in (log_probs_M, entropy_M, *given)]
        u_M = torch.empty_like(tokens[0])
        programs = triton.cdiv(len(u_M), _BLOCK)
        sums_PC = u_M.new_zeros((max(1, programs), _COUNTS))
        infinite = float("inf")
        if programs:
            with on_device_of(u_M):
                _kernel[(programs,)](
                    *tokens, u_M, sums_PC, len(u_M),
                    1 - spec.epsilon_low, 1 + spec.epsilon_high, infinite if spec.ceiling is None else spec.ceiling,
                    spec.beta_low, spec.beta_high, spec.cap, spec.tau_pos, spec.tau_neg, spec.kl, spec.entropy,
                    infinite if spec.importance_cap is None else spec.importance_cap,
                    GAIN=_GAINS[spec.gain], KL=_KLS[spec.kl_estimator] if spec.kl else 0, CORRECTED=spec.kl_corrected,
                    IMPORTANCE=spec.importance_cap is not None, ENTROPY=spec.entropy != 0, LIMIT=MAX_LOG_RATIO,
                    COUNTS=_COUNTS, BLOCK=_BLOCK,
                )  # fmt: skip
        total_C = sums_PC.sum(0, dtype=torch.float64)
        total_C[1 + METRICS.index("ratio_max")] = sums_PC[:, 1 + METRICS.index("ratio_max")].max()
        ctx.save_for_backward(u_M, tokens[8])
        ctx.entropy, ctx.types = spec.entropy, (log_probs_M.dtype, entropy_M.dtype)
        ctx.mark_non_differentiable(total_C)
        return total_C[0].float(), total_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        u_M, w_ent_M = ctx.saved_tensors
        by_entropy = (w_ent_M * (-ctx.entropy * grad)).to(ctx.types[1]) if ctx.entropy else None
        return (u_M * grad).to(ctx.types[0]), by_entropy, *[None] * 9


def pg_loss_triton(
    log_probs_M: Tensor, entropy_M: Tensor, old_logp_M: Tensor, ref_logp_M: Tensor, engine_logp_M: Tensor,
    w_pos_M: Tensor, w_neg_M: Tensor, w_kl_M: Tensor, w_ent_M: Tensor, w_nll_M: Tensor, spec: LossSpec,
) -> PgLoss:  # fmt: skip
    """As ``pg_loss``; all arithmetic is float32, sums over programs float64."""
    given = (old_logp_M, ref_logp_M, engine_logp_M, w_pos_M, w_neg_M, w_kl_M, w_ent_M, w_nll_M)
    loss, total_C = _PgLoss.apply(log_probs_M, entropy_M, spec, *given)
    return PgLoss(loss, {name: total_C[1 + index] for index, name in enumerate(METRICS)})
