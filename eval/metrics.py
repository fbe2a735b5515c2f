"""Accuracy with honest intervals, and tokens, from flat arrays of samples.

    mu     = mean_i pbar_i                                        every problem counts once
    SE_cl  = sd(pbar, ddof=1) / sqrt(n)                           problems are a sample of a task (default)
    SE_fix = sqrt(sum_i pbar_i (1 - pbar_i) / (k_i - 1)) / n      would a rerun on these problems differ?
    TPC    = sum Lbar / sum pbar                                  tokens per correct answer

The problem is the unit: intervals are clustered by problem, never over pooled samples. A truncated response stays in
the denominator of the accuracy and in the sum of tokens.

Source: "Adding Error Bars to Evals" (arXiv 2411.00640), pass@k of arXiv 2107.03374.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError
from .student_t import t_quantile

# Shapes: N samples of all problems, P problems, T tokens of one response

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Interval = tuple[float, float]
LEVEL = 0.95
"""Confidence of every interval."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems. Numbers that are not defined are NaN."""

    value: float
    se: float
    """Clustered standard error: the problems are a sample of a task."""
    ci95: Interval | None
    """None with a single problem."""
    se_fixed: float
    """Standard error of a rerun on the same problems; NaN if a problem has a single sample."""
    s2_within: float
    """Mean variance of a sample around its problem's mean."""
    s2_between: float
    """Variance of the problems' true means, at least 0."""
    interval: Literal["t", "wilson", "none"]
    degenerate: bool
    """All problems have the same mean: the clustered standard error is 0 and says nothing."""
    n: int
    """Problems."""


@dataclass(frozen=True, slots=True)
class Problems:
    """Samples gathered by problem, in order of first appearance."""

    ids: NDArray[Any]
    """Problem ids, shape (P,)."""
    index_N: I64
    """Problem of each sample."""
    count_P: I64
    """Samples of each problem (k_i)."""

    @classmethod
    def of(cls, problem_N: ArrayLike) -> Problems:
        """Group samples by problem id. Raises ``ConfigError`` for no samples at all."""
        problem_N = np.asarray(problem_N)
        if problem_N.size == 0:
            raise ConfigError("no samples to evaluate; the number of problems must be at least 1")
        ids, first, inverse, count = np.unique(problem_N, return_index=True, return_inverse=True, return_counts=True)
        order = np.argsort(first, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return cls(ids[order], rank[inverse], count[order])

    def means(self, value_N: ArrayLike) -> F64:
        """Mean of each problem, shape (P,)."""
        return np.bincount(self.index_N, np.asarray(value_N, np.float64), len(self.ids)) / self.count_P


def avg_at_k(right_N: ArrayLike, problem_N: ArrayLike) -> Estimate:
    """Accuracy, pass@1 estimated with k samples per problem; falls back to Wilson on n if all problems are equal."""
    return mean_by_problem(right_N, problem_N, shares=True)


def mean_by_problem(value_N: ArrayLike, problem_N: ArrayLike, *, shares: bool = False) -> Estimate:
    """Mean over problems of the per-problem means of any quantity: tokens, cost, truncation, correctness.

    ``shares``: the values are 0 or 1, so a degenerate sample gets the Wilson interval. Unequal k is allowed.
    """
    problems = Problems.of(problem_N)
    value_N = np.asarray(value_N, np.float64)
    mean_P, count_P, n = problems.means(value_N), problems.count_P, len(problems.ids)
    value = float(mean_P.mean())
    square_P = np.bincount(problems.index_N, (value_N - mean_P[problems.index_N]) ** 2, n)
    with np.errstate(divide="ignore", invalid="ignore"):
        within_P = np.where(count_P > 1, square_P / (count_P - 1), np.nan)
    se_fixed = math.sqrt(float((within_P / count_P).sum())) / n
    if n == 1:
        return Estimate(value, math.nan, None, se_fixed, float(within_P.mean()), math.nan, "none", False, n)
    variance = float(mean_P.var(ddof=1))
    degenerate = bool(np.ptp(mean_P) == 0)
    se = 0.0 if degenerate else math.sqrt(variance / n)
    interval: Literal["t", "wilson"] = "wilson" if degenerate and shares else "t"
    half = t_quantile(0.5 + LEVEL / 2, n - 1) * se
    between = max(0.0, variance - float((within_P / count_P).mean())) if np.isfinite(se_fixed) else math.nan
    return Estimate(
        value=value,
        se=se,
        ci95=wilson(value, n) if interval == "wilson" else (value - half, value + half),
        se_fixed=se_fixed,
        s2_within=float(within_P.mean()),
        s2_between=between,
        interval=interval,
        degenerate=degenerate,
        n=n,
    )


def wilson(share: float, n: int) -> Interval:
    """Wilson's interval of a share seen in ``n`` independent trials."""
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Exactly 0 and 1 at the ends, where the difference is only rounding.
    return (centre - half if share > 0 else 0.0), (centre + half if share < 1 else 1.0)


def pass_at_k(right_N: ArrayLike, problem_N: ArrayLike, k: int) -> float:
    """Mean over problems of the probability that at least one of ``k`` attempts is right.

    ``1 - C(m-c, k) / C(m, k)`` with m samples and c right ones; unbiased, unlike ``1 - (1 - c/m)^k``.
    Raises ``ConfigError`` if a problem has fewer than ``k`` samples.
    """
    problems = Problems.of(problem_N)
    fewest = int(problems.count_P.min())
    if k < 1 or fewest < k:
        raise ConfigError(
            f"pass@{k} needs k between 1 and the samples of every problem, but a problem has {fewest}; "
            "raise eval.k or lower the k of pass@k"
        )
    right_P = np.bincount(problems.index_N, np.asarray(right_N, np.float64), len(problems.ids)).astype(np.int64)
    return float(np.mean([_pass(int(m), int(c), k) for m, c in zip(problems.count_P, right_P, strict=True)]))


@lru_cache(maxsize=4096)
def _pass(m: int, c: int, k: int) -> float:
    return 1 - math.comb(m - c, k) / math.comb(m, k)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Response lengths. Means over no responses are NaN."""

    mean: Estimate
    median: float
    p90: float
    p99: float
    max: int
    think_mean: float
    answer_mean: float
    correct_mean: float
    incorrect_mean: float
    not_truncated_mean: float
    trunc_rate: float
    loop_rate: float


def token_breakdown(
    problem_N: ArrayLike,
    length_N: ArrayLike,
    right_N: ArrayLike,
    think_N: ArrayLike,
    truncated_N: ArrayLike,
    loop_N: ArrayLike,
) -> Tokens:
    """Length statistics; ``mean`` and the rates weight problems equally, the rest pools the responses they name.

    ``length_N`` int64 response tokens (EOS included), ``think_N`` int64 those up to and including the end of thought,
    ``right_N``, ``truncated_N``, ``loop_N`` bool.
    """
    length_N, think_N = np.asarray(length_N, np.int64), np.asarray(think_N, np.int64)
    right_N, truncated_N = np.asarray(right_N, bool), np.asarray(truncated_N, bool)
    problems = Problems.of(problem_N)
    median, p90, p99 = (float(value) for value in np.percentile(length_N, [50, 90, 99]))
    return Tokens(
        mean=mean_by_problem(length_N, problem_N),
        median=median,
        p90=p90,
        p99=p99,
        max=int(length_N.max()),
        think_mean=float(problems.means(think_N).mean()),
        answer_mean=float(problems.means(length_N - think_N).mean()),
        correct_mean=_mean(length_N[right_N]),
        incorrect_mean=_mean(length_N[~right_N]),
        not_truncated_mean=_mean(length_N[~truncated_N]),
        trunc_rate=float(problems.means(truncated_N).mean()),
        loop_rate=float(problems.means(loop_N).mean()),
    )


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if values.size else math.nan


@dataclass(frozen=True, slots=True)
class LoopRule:
    """When a response counts as a repetition loop."""

    window: int = 512
    """Last tokens looked at."""
    gram: int = 8
    """Length of the repeated n-gram, tokens."""
    repeats: int = 16
    """Occurrences of one n-gram in the window from which on it is a loop."""
    characters: int = 4000
    """Last characters looked at."""
    ratio: float = 8.0
    """Compression ratio (zlib) of those characters above which it is a loop."""

    def __call__(self, ids_T: ArrayLike, text: str) -> bool:
        """Whether the response loops."""
        tail_T = np.asarray(ids_T, np.int64)[-self.window :]
        if len(tail_T) >= self.gram + self.repeats - 1:
            grams = np.lib.stride_tricks.sliding_window_view(tail_T, self.gram)
            if np.unique(grams, axis=0, return_counts=True)[1].max() >= self.repeats:
                return True
        tail = text[-self.characters :].encode()
        return bool(tail) and len(tail) / len(zlib.compress(tail)) > self.ratio


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of two means over problems."""

    value: float
    """Infinite if the denominator is 0."""
    se: float
    """Delta method; NaN where undefined."""


def tokens_per_correct(length_N: ArrayLike, right_N: ArrayLike, problem_N: ArrayLike) -> Ratio:
    """The price of one right answer; also for GPU-seconds or FLOPs in place of tokens.

    SE = sd(Lbar - TPC * pbar, ddof=1) / (sqrt(n) * mu).
    """
    problems = Problems.of(problem_N)
    length_P, right_P = problems.means(length_N), problems.means(right_N)
    accuracy, n = float(right_P.mean()), len(right_P)
    if accuracy == 0:
        return Ratio(math.inf, math.nan)
    value = float(length_P.mean()) / accuracy
    if n == 1:
        return Ratio(value, math.nan)
    return Ratio(value, float((length_P - value * right_P).std(ddof=1)) / (math.sqrt(n) * accuracy))


@dataclass(frozen=True, slots=True)
class TruncationShare:
    """How much of a length gain is fewer runaways."""

    base_mean: float
    new_mean: float
    change: float
    """new / base - 1."""
    explained: float
    """Share of the gain from the lower truncation rate alone; NaN if the means are equal."""


def truncation_decomposition(
    cap: float, base_rate: float, base_mean: float, new_rate: float, new_mean: float
) -> TruncationShare:
    """Split a length gain, given the truncation rates and the means of the responses that were not truncated.

    mean(tau, m) = tau*cap + (1 - tau)*m;  explained = [mean(tau0, m0) - mean(tau1, m0)] / [mean(0) - mean(1)].
    """
    if base_rate == 1 or new_rate == 1:
        # Without a finished response the mean of those has no value and no weight: take the other side's.
        base_mean = new_mean if base_rate == 1 else base_mean
        new_mean = base_mean if new_rate == 1 else new_mean

    def mean(rate: float, finished: float) -> float:
        return cap if rate == 1 else rate * cap + (1 - rate) * finished

    before, after = mean(base_rate, base_mean), mean(new_rate, new_mean)
    gain = before - after
    explained = (before - mean(new_rate, base_mean)) / gain if gain else math.nan
    return TruncationShare(before, after, after / before - 1 if before else math.nan, explained)


@dataclass(frozen=True, slots=True)
class Level:
    """Accuracy and length at one difficulty."""

    level: int
    accuracy: Estimate
    tokens: Estimate
    trunc_rate: float


def by_level(
    level_N: ArrayLike, problem_N: ArrayLike, right_N: ArrayLike, length_N: ArrayLike, truncated_N: ArrayLike
) -> list[Level]:
    """One entry per difficulty, easiest first; samples without a level (below 0) are left out."""
    level_N, problem_N = np.asarray(level_N, np.int64), np.asarray(problem_N)
    right_N, length_N, truncated_N = np.asarray(right_N), np.asarray(length_N), np.asarray(truncated_N)
    rows = []
    for level in np.unique(level_N[level_N >= 0]):
        at = level_N == level
        rows.append(
            Level(
                int(level),
                avg_at_k(right_N[at], problem_N[at]),
                mean_by_problem(length_N[at], problem_N[at]),
                float(Problems.of(problem_N[at]).means(truncated_N[at]).mean()),
            )
        )
    return rows
