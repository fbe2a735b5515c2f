"""Quantiles of Student's t distribution, for intervals over few problems.

    P(|T| > t) = I_x(df/2, 1/2),  x = df / (df + t^2)

with the regularised incomplete beta function I_x as a continued fraction (modified Lentz; Abramowitz and Stegun
26.5.8). Accurate to about 1e-12.
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, lgamma, log, log1p


@lru_cache(maxsize=256)
def t_quantile(probability: float, df: int) -> float:
    """t with P(T <= t) = ``probability`` (above one half) for ``df`` degrees of freedom.

    Raises ``ValueError`` for a probability outside (0.5, 1) or ``df`` below 1.
    """
    if not 0.5 < probability < 1 or df < 1:
        raise ValueError(f"t_quantile({probability}, {df}): need 0.5 < probability < 1 and df >= 1")
    tail = 2 * (1 - probability)
    low, high = 0.0, 1.0
    while two_sided_tail(high, df) > tail:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if two_sided_tail(middle, df) > tail else (low, middle)
    return (low + high) / 2


def two_sided_tail(t: float, df: int) -> float:
    """P(|T| > t) for t >= 0."""
    return _incomplete_beta(df / (df + t * t), t * t / (df + t * t), df / 2, 0.5)


def _incomplete_beta(x: float, one_minus_x: float, a: float, b: float) -> float:
    """I_x(a, b); both x and 1 - x are given so that neither loses digits."""
    if x <= 0:
        return 0.0
    if one_minus_x <= 0:
        return 1.0
    log_x = log(x) if x < 0.5 else log1p(-one_minus_x)
    log_rest = log(one_minus_x) if one_minus_x < 0.5 else log1p(-x)
    front = exp(a * log_x + b * log_rest + lgamma(a + b) - lgamma(a) - lgamma(b))
    if x < (a + 1) / (a + b + 2):
        return front * _continued_fraction(x, a, b) / a
    return 1 - front * _continued_fraction(one_minus_x, b, a) / b


def _continued_fraction(x: float, a: float, b: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1), tiny)
    value = d
    for m in range(1, 10_000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away_from_zero(1 + numerator * d, tiny)
            c = _away_from_zero(1 + numerator / c, tiny)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _away_from_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
