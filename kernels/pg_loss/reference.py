"""The slow twin of ``pg_loss``: each term as its formula, differentiated by autograd, in the type of its inputs.

With l = clamp(log pi - log pi_old, -20, 20), rho = e^l, sg() a constant and W the importance weight:

    ratio   gain = (w_pos + w_neg) rho
    clip    gain = w_pos min(rho, 1 + e_hi) + w_neg min(max(rho, 1 - e_lo), ceiling)
    gppo    as clip, but beyond the bounds beta (1 +- e) rho / sg(rho)
    cispo   gain = sg(min(rho, cap)) (w_pos + w_neg) log pi
    sapo    gain = (w_pos gate(rho, tau_pos) + w_neg gate(rho, tau_neg)),  gate = (4 / tau) sigmoid(tau (rho - 1))
    loss  = sum -W gain - w_nll log pi + kl w_kl KL - entropy w_ent H
"""

from __future__ import annotations

import torch
from torch import Tensor

from .spec import LossSpec, PgLoss

# Shapes: M tokens

MAX_LOG_RATIO = 20.0


def pg_loss_reference(
    log_probs_M: Tensor, entropy_M: Tensor, old_logp_M: Tensor, ref_logp_M: Tensor, engine_logp_M: Tensor,
    w_pos_M: Tensor, w_neg_M: Tensor, w_kl_M: Tensor, w_ent_M: Tensor, w_nll_M: Tensor, spec: LossSpec,
) -> PgLoss:  # fmt: skip
    """As ``pg_loss``, by autograd."""
    old_M = torch.where(old_logp_M.isnan(), log_probs_M.detach(), old_logp_M)
    ratio_M = _clamped(log_probs_M - old_M).exp()
    gain_M, high_M, low_M = _gain(log_probs_M, ratio_M, w_pos_M, w_neg_M, spec)
    zero = log_probs_M.new_zeros(())
    counts = {"tokens": torch.full_like(zero, len(log_probs_M)), "entropy": entropy_M.sum()}
    counts["ratio_max"] = ratio_M.max() if len(ratio_M) else zero
    counts["kl_old"] = (1 / ratio_M + ratio_M.log() - 1).sum()
    counts |= {"clipped_high": high_M.sum(), "clipped_low": low_M.sum()}
    counts |= dict.fromkeys(("importance", "importance_capped", "kl_reference"), zero)
    if spec.importance_cap is not None:
        weight_M = _clamped((old_logp_M - engine_logp_M).nan_to_num(nan=0.0)).exp().clamp(max=spec.importance_cap)
        gain_M = gain_M * weight_M
        counts |= {"importance": weight_M.sum(), "importance_capped": (weight_M >= spec.importance_cap).sum()}
    loss_M = -gain_M - w_nll_M * log_probs_M
    if spec.kl:
        # A token without weight may lack a reference, and 0 * NaN is NaN.
        ref_M = torch.where((w_kl_M == 0) & ref_logp_M.isnan(), log_probs_M.detach(), ref_logp_M)
        kl_M = _kl(_clamped(ref_M - log_probs_M), spec)
        counts["kl_reference"] = kl_M.sum()
        if spec.kl_corrected:
            kl_M = kl_M * (ratio_M.detach() if spec.kl_estimator == "k2" else ratio_M)
        loss_M = loss_M + spec.kl * w_kl_M * kl_M
    if spec.entropy:
        loss_M = loss_M - spec.entropy * w_ent_M * entropy_M
    counts["imitated"] = (w_nll_M > 0).sum()
    return PgLoss(loss_M.sum(), {name: count.detach() for name, count in counts.items()})


def _gain(
    log_probs_M: Tensor, ratio_M: Tensor, w_pos_M: Tensor, w_neg_M: Tensor, spec: LossSpec
) -> tuple[Tensor, Tensor, Tensor]:
    """The policy term, and which tokens are clipped from above and from below."""
    both_M = w_pos_M + w_neg_M
    above_M, below_M = ratio_M > 1 + spec.epsilon_high, ratio_M < 1 - spec.epsilon_low
    nowhere_M = torch.zeros_like(above_M)
    if spec.gain == "ratio":
        return both_M * ratio_M, nowhere_M, nowhere_M
    if spec.gain == "cispo":
        return (
            ratio_M.detach().clamp(max=spec.cap) * both_M * log_probs_M,
            (both_M != 0) & (ratio_M > spec.cap),
            nowhere_M,
        )
    if spec.gain == "sapo":
        gates = [torch.sigmoid(tau * (ratio_M - 1)) * (4 / tau) for tau in (spec.tau_pos, spec.tau_neg)]
        return w_pos_M * gates[0] + w_neg_M * gates[1], nowhere_M, nowhere_M
    if spec.gain == "gppo":
        alive_M = (log_probs_M - log_probs_M.detach()).exp()
        capped_M = torch.where(above_M, spec.beta_high * (1 + spec.epsilon_high) * alive_M, ratio_M)
        floored_M = torch.where(below_M, spec.beta_low * (1 - spec.epsilon_low) * alive_M, ratio_M)
        floored_M = floored_M.clamp(max=spec.ceiling) if spec.ceiling is not None else floored_M
    else:
        capped_M = ratio_M.clamp(max=1 + spec.epsilon_high)
        floored_M = ratio_M.clamp(min=1 - spec.epsilon_low, max=spec.ceiling)
    return w_pos_M * capped_M + w_neg_M * floored_M, (w_pos_M > 0) & above_M, (w_neg_M < 0) & below_M


def _kl(difference_M: Tensor, spec: LossSpec) -> Tensor:
    if spec.kl_estimator == "k1":
        return -difference_M
    if spec.kl_estimator == "k2":
        return difference_M**2 / 2
    return difference_M.exp() - difference_M - 1


def _clamped(difference_M: Tensor) -> Tensor:
    return difference_M.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
