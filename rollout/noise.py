"""Random numbers that are a function of their name: (seed, step, group, leaf, position) -> one uniform.

    key <- 0, then for seed, step, group, leaf: key <- mix((key ^ part) + GOLDEN)      one per sequence, 64 bits
    u    = ((mix(key + (position + 1) * GOLDEN) >> 12) + 1/2) / 2^52                   one per token, in (0, 1)

``mix`` is the finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA
2014), so the numbers of one sequence are the SplitMix64 stream seeded by its key. A draw does not depend on which
other sequences are decoded beside it, on their order or on the number of ranks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .engines.protocol import NoiseKey

# Shapes: arguments broadcast against each other; N is their common shape

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def stream_key(noise: NoiseKey) -> np.uint64:
    """The 64-bit key of one sequence. Components may be any integers; they count modulo 2^64."""
    key = np.zeros(1, np.uint64)
    for part in (noise.seed, noise.step, noise.group, noise.leaf):
        key = _mix((key ^ np.uint64(part % 2**64)) + _GOLDEN)
    return key[0]


def uniforms(key_N: ArrayLike, position_N: ArrayLike) -> NDArray[np.float64]:
    """Uniforms in the open interval (0, 1) for keys (uint64) and noise positions (integers >= 0), float64."""
    counter_N = np.asarray(position_N).astype(np.uint64) + np.uint64(1)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant; NumPy warns of it for scalars
        bits_N = _mix(np.asarray(key_N, np.uint64) + counter_N * _GOLDEN)
    # 52 bits and a half: 53 would let the largest value round up to 1
    return ((bits_N >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _mix(x_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x_N = (x_N ^ (x_N >> np.uint64(30))) * _FIRST
    x_N = (x_N ^ (x_N >> np.uint64(27))) * _SECOND
    return x_N ^ (x_N >> np.uint64(31))
