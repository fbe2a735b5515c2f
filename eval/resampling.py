"""Sign-flip permutation and bootstrap over problems: vectorised, in chunks of bounded memory, with fixed seeds."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .metrics import LEVEL, Interval

# Shapes: P problems, D bootstrap draws or sign flips, C columns, S values of a byte, W bytes of a row of signs

F64 = NDArray[np.float64]
EXACT_LIMIT = 16
"""Up to this many differing problems the sign-flip test goes through all sign patterns."""
_CHUNK = 2_000_000
"""Elements of a temporary array."""


def sign_flip(delta_P: F64, flips: int, seed: int) -> tuple[float, str]:
    """P(|mean of randomly signed d| >= |mean d|). Unchanged problems do not move the sum and are left out."""
    nonzero_P = delta_P[delta_P != 0]
    observed = abs(float(nonzero_P.sum())) - 1e-9 * float(np.abs(nonzero_P).sum())
    if len(nonzero_P) <= EXACT_LIMIT:
        sums_D = np.zeros(1)
        for delta in nonzero_P:
            sums_D = np.concatenate([sums_D + delta, sums_D - delta])
        return float((np.abs(sums_D) >= observed).mean()), "exact"
    # Eight signs to a random byte: the sum of each byte's eight differences comes from a table.
    padded = np.concatenate([nonzero_P, np.zeros(-len(nonzero_P) % 8)]).reshape(-1, 8)
    signs_SB = 1.0 - 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    table = (padded @ signs_SB.T).ravel()
    width = len(padded)
    rng = np.random.default_rng(seed)
    hits, done = 0, 0
    while done < flips:
        rows = min(flips - done, max(1, _CHUNK // width))
        bytes_DW = rng.integers(0, 256, (rows, width), np.uint8) + 256 * np.arange(width)
        hits += int((np.abs(table[bytes_DW].sum(axis=1)) >= observed).sum())
        done += rows
    return (1 + hits) / (1 + flips), f"{flips} flips"


def bootstrap_sums(columns_PC: F64, draws: int, seed: int) -> F64:
    """Column sums over problems drawn with replacement, shape (D, C). A problem keeps its samples."""
    rng, n = np.random.default_rng(seed), len(columns_PC)
    sums_DC = np.empty((draws, columns_PC.shape[1]))
    done = 0
    while done < draws:
        rows = min(draws - done, max(1, _CHUNK // n))
        drawn_DP = rng.integers(0, n, (rows, n))
        count_DP = np.bincount((drawn_DP + n * np.arange(rows)[:, None]).ravel(), minlength=rows * n)
        sums_DC[done : done + rows] = count_DP.reshape(rows, n).astype(np.float64) @ columns_PC
        done += rows
    return sums_DC


def percentile_limits(value: float, drawn_D: F64, n: int) -> Interval | None:
    """Percentile limits; below 100 problems the deviations are widened by sqrt(n / (n - 1))."""
    finite_D = drawn_D[np.isfinite(drawn_D)]
    if n == 1 or not finite_D.size:
        return None
    low, high = np.percentile(finite_D, [50 - 50 * LEVEL, 50 + 50 * LEVEL])
    widen = math.sqrt(n / (n - 1)) if n < 100 else 1.0
    return value + widen * float(low - value), value + widen * float(high - value)
