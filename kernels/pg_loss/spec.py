"""What a token-level policy loss is made of, as data: the terms and their constants.

The kernels know no objectives; an objective says what it is in these words (``spec``, train/objectives/policy.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

Gain = Literal["ratio", "clip", "gppo", "cispo", "sapo"]
Kl = Literal["k1", "k2", "k3"]

METRICS = (
    "tokens", "entropy", "ratio_max", "kl_old", "clipped_high", "clipped_low", "importance", "importance_capped",
    "kl_reference", "imitated",
)  # fmt: skip
"""What is counted on the way, in this order: sums over tokens, but for ``ratio_max``."""


@dataclass(frozen=True)
class LossSpec:
    """Constants of one loss; a weight of 0 and None leave a term out, so that its inputs are not read."""

    gain: Gain
    """``ratio`` rho A; ``clip`` of PPO; ``gppo``, clipped in value only; ``cispo``; ``sapo``, a soft gate."""
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    ceiling: float | None = None
    """Largest ratio that a negative weight is multiplied with: ``delta`` of clip, ``dual_clip`` of gppo."""
    beta_low: float = 1.0
    beta_high: float = 1.0
    """Shares of their gradient that clipped tokens keep (gppo)."""
    cap: float = 5.0
    """Largest ratio of cispo."""
    tau_pos: float = 1.0
    tau_neg: float = 1.05
    """Slopes of sapo's gates."""
    kl: float = 0.0
    """Weight of the estimate of KL(pi || ref)."""
    kl_estimator: Kl = "k3"
    kl_corrected: bool = True
    """Multiply the estimate by the ratio (k2: by its value only)."""
    entropy: float = 0.0
    """Weight of the entropy bonus."""
    importance_cap: float | None = None
    """Largest weight pi_old / pi_engine of the policy term; None leaves it out."""


class PgLoss(NamedTuple):
    """What the pass gives."""

    loss: Tensor
    """Sum over the tokens, with gradient in log-probs and entropies."""
    counts: dict[str, Tensor]
    """By the names of ``METRICS``: sums over tokens, ``ratio_max`` the largest; scalars without gradient."""
