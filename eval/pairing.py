"""Two models on the same problems: what changed, with the variance between problems cancelled.

    d_i   = pbar_i(new) - pbar_i(base);   D = mean d_i;   SE = sd(d, ddof=1) / sqrt(n)
    ratio of sums     sum Lbar(new) / sum Lbar(base)                what you pay
    geometric ratio   exp(mean_i ln(Lbar_i(new) / Lbar_i(base)))    the typical problem
    AES   = alpha*dL + beta*dA  if dA >= 0  else  alpha*dL - gamma*|dA|      dL, dA relative to the base

Source: AES of O1-Pruner, arXiv 2501.12570.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError
from .metrics import LEVEL, Interval
from .resampling import bootstrap_sums, percentile_limits, sign_flip
from .student_t import t_quantile

# Shapes: P problems, aligned between base and new; D bootstrap draws or sign flips; C columns

F64 = NDArray[np.float64]
Verdict = Literal["non-inferior", "inferior", "undecided"]
_ROUNDING = 1e-12
"""Differences of means of shares that are apart by less are equal: means of k answers are apart by 1 / k."""


@dataclass(frozen=True, slots=True)
class PairedDelta:
    """Difference of two means over the same problems."""

    delta: float
    se: float
    ci95: Interval | None
    """None with a single problem."""
    p: float
    """Two-sided sign-flip permutation p-value."""
    p_method: str
    n: int
    degenerate: bool
    """Every problem changed by the same amount (mostly: by nothing), so the spread says nothing."""


def paired_delta(base: ArrayLike, new: ArrayLike, *, flips: int = 100_000, seed: int = 0) -> PairedDelta:
    """Difference of per-problem means, both of shape (P,) and in the same order.

    If all differences are equal the interval is D +- z^2/(n + z^2), the Wilson limit on the share of problems that
    could differ unseen, so that three identical problems prove nothing. Raises ``ConfigError`` for other shapes.
    """
    base_P, new_P = _aligned(base, new)
    delta_P, n = new_P - base_P, len(base_P)
    delta = float(delta_P.mean())
    p, method = sign_flip(delta_P, flips, seed)
    if n == 1:
        return PairedDelta(delta, math.nan, None, p, method, n, False)
    degenerate = bool(np.ptp(delta_P) < _ROUNDING)
    se = 0.0 if degenerate else float(delta_P.std(ddof=1)) / math.sqrt(n)
    z2 = NormalDist().inv_cdf(0.5 + LEVEL / 2) ** 2
    half = z2 / (n + z2) if degenerate else t_quantile(0.5 + LEVEL / 2, n - 1) * se
    return PairedDelta(delta, se, (delta - half, delta + half), p, method, n, degenerate)


def non_inferiority(delta: PairedDelta, margin: float) -> tuple[Verdict, str]:
    """The verdict and a sentence: whether accuracy fell by less than ``margin`` (a share, 0.01 is a point).

    Raises ``ConfigError`` for a margin that is not positive.
    """
    if not margin > 0:
        raise ConfigError(f"the non-inferiority margin is {margin} but must be positive; 0.01 is one point")
    limit = f"the margin of {-100 * margin:+.1f} points"
    if delta.ci95 is None:
        return "undecided", "undecided: a single problem gives no interval"
    low, high = delta.ci95
    interval = f"the 95 % interval of the accuracy difference, {100 * low:+.2f} to {100 * high:+.2f} points,"
    if low > -margin:
        return "non-inferior", f"non-inferior: {interval} lies above {limit}"
    if high < -margin:
        return "inferior", f"inferior: {interval} lies below {limit}"
    return "undecided", f"undecided: {interval} contains {limit}; evaluate more problems or samples"


@dataclass(frozen=True, slots=True)
class RatioEstimate:
    """A ratio new / base with its 95 % interval; NaN and None where it is not defined."""

    value: float
    ci95: Interval | None


def ratio_of_sums(base: ArrayLike, new: ArrayLike, *, draws: int = 10_000, seed: int = 0) -> RatioEstimate:
    """sum(new) / sum(base) with a bootstrap over problems: the ratio of what both cost in all."""
    base_P, new_P = _aligned(base, new)
    if base_P.sum() == 0:
        return RatioEstimate(math.nan, None)
    value = float(new_P.sum() / base_P.sum())
    sums_DC = bootstrap_sums(np.stack([base_P, new_P], axis=1), draws, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_D = sums_DC[:, 1] / sums_DC[:, 0]
    return RatioEstimate(value, percentile_limits(value, ratio_D, len(base_P)))


def geometric_ratio(base: ArrayLike, new: ArrayLike) -> RatioEstimate:
    """exp(mean of log ratios) with the exponentiated t interval; problems with a mean of 0 are left out."""
    base_P, new_P = _aligned(base, new)
    kept = (base_P > 0) & (new_P > 0)
    if not kept.any():
        return RatioEstimate(math.nan, None)
    log_P = np.log(new_P[kept] / base_P[kept])
    mean, n = float(log_P.mean()), len(log_P)
    if n == 1:
        return RatioEstimate(math.exp(mean), None)
    half = t_quantile(0.5 + LEVEL / 2, n - 1) * float(log_P.std(ddof=1)) / math.sqrt(n)
    return RatioEstimate(math.exp(mean), (math.exp(mean - half), math.exp(mean + half)))


@dataclass(frozen=True)
class AES:
    """Accuracy-efficiency score: one signed number against the base; 0 is the base, higher is better.

    It depends on the base and amplifies noise around an unchanged accuracy, so it never stands alone.
    """

    alpha: float = 1.0
    """Weight of the relative length gain."""
    beta: float = 3.0
    """Weight of a relative accuracy gain."""
    gamma: float = 5.0
    """Weight of a relative accuracy loss."""

    def __call__(self, base_accuracy: ArrayLike, base_length: ArrayLike, accuracy: ArrayLike, length: ArrayLike) -> F64:
        """The score, elementwise over the broadcast inputs; NaN where the base has accuracy or length 0."""
        a0, l0, a1, l1 = (np.asarray(x, np.float64) for x in (base_accuracy, base_length, accuracy, length))
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = np.where(a0 > 0, (a1 - a0) / a0, np.nan)
            shorter = np.where(l0 > 0, (l0 - l1) / l0, np.nan)
        return self.alpha * shorter + np.where(gain >= 0, self.beta, self.gamma) * gain


def aes(
    base_right: ArrayLike,
    base_length: ArrayLike,
    new_right: ArrayLike,
    new_length: ArrayLike,
    *,
    weights: AES | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> RatioEstimate:
    """AES of two models from per-problem means, all (P,), with a bootstrap paired by problem of the whole score."""
    weights = weights or AES()
    base_right_P, new_right_P = _aligned(base_right, new_right)
    base_length_P, new_length_P = _aligned(base_length, new_length)
    columns_PC = np.stack([base_right_P, base_length_P, new_right_P, new_length_P], axis=1)
    value = float(weights(*columns_PC.mean(axis=0)))
    if math.isnan(value):
        return RatioEstimate(math.nan, None)
    sums_DC = bootstrap_sums(columns_PC, draws, seed)
    return RatioEstimate(value, percentile_limits(value, weights(*sums_DC.T), len(columns_PC)))


def _aligned(base: ArrayLike, new: ArrayLike) -> tuple[F64, F64]:
    base_P, new_P = np.asarray(base, np.float64), np.asarray(new, np.float64)
    if base_P.ndim != 1 or base_P.shape != new_P.shape or not len(base_P):
        raise ConfigError(
            f"a paired comparison needs one number per problem on both sides, got {base_P.shape} and {new_P.shape}"
        )
    return base_P, new_P
