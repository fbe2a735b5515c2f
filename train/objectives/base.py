"""What an objective is: log-probs and per-token weights of a pack in, one loss out.

The weights carry the advantages and all normalisation (``rows.py``), so the losses of packs add up to that of the
update. ``w_pos`` and ``w_neg`` are kept apart because a clipped loss of a sum of advantages is not the sum of the
clipped losses; see ``clip.py``.

Trust. Tokens are drawn from the engine's distribution, which differs from the trainer's by rounding, or by more. With
``old: engine`` the ratio is to the engine's own log-probs and so corrects for it, within its clipping. With ``old:
recompute`` the ratio is to the trainer's, and the rest, from engine to trainer, is a constant weight of the token's
policy term (truncated importance sampling; C is ``importance_cap``):

    min(exp(log pi_old - log pi_engine), C)

It is never taken over whole answers: the ratio of a long chain of thought is a product of thousands of factors, and a
mask on it drops nearly all of them. Source: Fengyao, 2025, "Your efficient RL framework secretly brings you off-policy
RL training", and ``token_truncate`` of trl 1.16; C = 2 as in Delethink, arXiv 2510.06557.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from ...errors import ConfigError
from ..rows import Normalizer

# Shapes: M scored tokens of the pack

Old = Literal["engine", "recompute"]
"""Where the sampling policy's log-probs come from: as the engine reported them, or scored again by the trainer's own
forward pass before the first update. They differ by rounding; on another engine (vLLM) or in bfloat16 by more."""

Importance = Literal["token", "none"]
"""Whether the tokens of ``old: recompute`` are weighted by the ratio of the trainer's policy to the engine's."""

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to this size before the exponential: e^20 is 5e8, and float32 overflows at e^88."""


@dataclass(frozen=True, slots=True)
class LossInputs:
    """One value per scored token, all (M,), on one device; everything but the first two is constant."""

    log_probs_M: Tensor
    """Under the current policy, with gradient."""
    entropy_M: Tensor
    """Of the current policy's distribution, with gradient."""
    old_logp_M: Tensor
    """Under the policy that sampled; where NaN, the ratio counts as 1."""
    ref_logp_M: Tensor
    """Under the reference; only read by a KL term."""
    w_pos_M: Tensor
    w_neg_M: Tensor
    w_kl_M: Tensor
    w_ent_M: Tensor
    w_nll_M: Tensor
    engine_logp_M: Tensor | None = None
    """Under the engine's distribution; None or NaN where there is nothing to correct. Only read with a correction."""
    row_M: Tensor | None = None
    """Which row of the pack each token belongs to, int64. Only read by losses with ``packs: rows``."""
    value_M: Tensor | None = None
    """Estimated return before the token, with gradient; None without a value head."""
    old_value_M: Tensor | None = None
    """The same before the first update of the generation."""
    return_M: Tensor | None = None
    """What the value learns."""


@dataclass(frozen=True, slots=True)
class LossOutputs:
    """The pack's share of the loss, and what to log: means over its scored tokens (0 where there are none)."""

    loss: Tensor
    metrics: dict[str, float]


class Objective(Protocol):
    """A frozen dataclass whose fields are its settings."""

    packs: ClassVar[Literal["exact", "rows"]]
    """``exact``: correct where tokens of several rows are merged into one; ``rows``: needs one row per token."""

    @property
    def normalizer(self) -> Normalizer: ...

    @property
    def kl(self) -> float: ...

    @property
    def old(self) -> Old: ...

    @property
    def touches_all_tokens(self) -> bool:
        """Whether rows without advantage have a gradient too, and must be kept."""

    def __call__(self, inputs: LossInputs) -> LossOutputs: ...


def log_ratio(inputs: LossInputs) -> Tensor:
    """log pi - log pi_old, clamped, with gradient; 0 (with the gradient of a ratio of 1) where the old one is NaN."""
    old_M = torch.where(inputs.old_logp_M.isnan(), inputs.log_probs_M.detach(), inputs.old_logp_M)
    return (inputs.log_probs_M - old_M).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def correction(inputs: LossInputs, old: Old, importance: Importance, cap: float) -> Tensor | None:
    """Truncated importance weight of each token, constant (M,); None where the policy term is left as it is."""
    if old != "recompute" or importance == "none" or inputs.engine_logp_M is None:
        return None
    log_weight_M = (inputs.old_logp_M - inputs.engine_logp_M).nan_to_num(nan=0.0)
    return log_weight_M.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().clamp(max=cap)


def correction_metrics(weight_M: Tensor | None, cap: float) -> dict[str, Tensor]:
    """``policy/importance`` (mean weight) and ``policy/importance_capped`` (share of tokens at the cap)."""
    if weight_M is None:
        return {}
    mean = weight_M.sum() / max(1, len(weight_M))
    return {"policy/importance": mean, "policy/importance_capped": share(weight_M >= cap)}


def check_importance_cap(cap: float) -> None:
    """Raise ``ConfigError`` for a cap that would shrink tokens on which engine and trainer agree."""
    if not cap >= 1:
        raise ConfigError(
            f"objective.importance_cap is {cap:g} but must be at least 1, the weight of a token on which engine and "
            "trainer agree; the usual value is 2, and objective.importance=none switches the correction off"
        )


def common_metrics(inputs: LossInputs, ratio_M: Tensor) -> dict[str, Tensor]:
    """``policy/entropy`` in nats, ``policy/ratio_max``, and ``policy/kl_old`` (k3 to the policy that sampled)."""
    with torch.no_grad():
        if not len(ratio_M):
            zero = ratio_M.new_zeros(())
            return {"policy/entropy": zero, "policy/ratio_max": zero, "policy/kl_old": zero}
        kl_old_M = 1 / ratio_M + ratio_M.log() - 1
        return {
            "policy/entropy": inputs.entropy_M.mean(),
            "policy/ratio_max": ratio_M.max(),
            "policy/kl_old": kl_old_M.mean(),
        }


def share(flags_M: Tensor) -> Tensor:
    """Share of true flags; 0 without any."""
    return flags_M.double().sum() / max(1, len(flags_M))


def to_floats(metrics: dict[str, Tensor]) -> dict[str, float]:
    """Numbers for the log, with one transfer from the device."""
    values = torch.stack([value.detach().double() for value in metrics.values()]).tolist()
    return dict(zip(metrics, values, strict=True))
