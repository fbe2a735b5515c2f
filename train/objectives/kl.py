"""Estimates of the KL divergence to the reference model, KL(pi || ref), by name.

Per token drawn from pi, with d = log ref - log pi:

    name   value          gradient along log pi    what it is
    k1     -d             1                        unbiased, may be negative
    k2     d^2 / 2        -d                       biased by the third order; its gradient is that of the KL
    k3     e^d - d - 1    1 - e^d                  unbiased, never negative; trl's and GRPO's

On-policy, the gradient of the KL is the mean of -d times that of log pi: k2 has it as it stands, k1 alone has a
gradient of mean zero, and k3 one that agrees near d = 0 only. Times the ratio rho = pi / pi_old, which is 1 in value
before the first update, k1 and k3 have it too, on the tokens of any older policy:

    rho * k1    rho * (1 - d)        rho * k3    -rho * d        sg(rho) * k2    -rho * d

(1 has mean zero again.) k2 has its gradient already, so its ratio is a constant.

Source: J. Schulman, "Approximating KL divergence", 2020; what their gradients optimise: arXiv 2510.01555 (from memory).
k3 with and without the ratio equals trl 1.16.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ...errors import ConfigError
from .base import MAX_LOG_RATIO

# Shapes: M scored tokens of the pack

KlEstimator = Literal["k1", "k2", "k3"]


def kl_estimate(name: KlEstimator, log_probs_M: Tensor, other_M: Tensor) -> Tensor:
    """Estimate of KL(pi || other) per token drawn from pi, with gradient (M,)."""
    difference_M = (other_M - log_probs_M).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if name == "k1":
        return -difference_M
    if name == "k2":
        return difference_M**2 / 2
    return difference_M.exp() - difference_M - 1


def corrected(name: KlEstimator, kl_M: Tensor, ratio_M: Tensor) -> Tensor:
    """The estimate for tokens of an older policy; ``ratio_M`` is pi / pi_old with gradient."""
    return kl_M * (ratio_M.detach() if name == "k2" else ratio_M)


def check_estimator(name: KlEstimator, bias_corrected: bool) -> None:
    """Raise ``ConfigError`` for the one choice that pulls nowhere."""
    if name == "k1" and not bias_corrected:
        raise ConfigError(
            "objective.kl_estimator is k1 with objective.bias_corrected_kl=false: its gradient has a mean of zero, so "
            "it would add noise and no pull to the reference; set bias_corrected_kl=true, or kl_estimator=k2"
        )
