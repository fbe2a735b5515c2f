"""A t-digest: quantiles of a stream of numbers in a few hundred bytes, finer towards both ends.

Numbers are merged into centroids (mean, weight) in ascending order; a centroid may grow while

    k(q_right) - k(q_left) <= 1        k(q) = compression / (2 pi) * asin(2 q - 1), q the share of weight up to there

Source: Computing Extremely Accurate Quantiles Using t-Digests, arXiv 1902.04023.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import asin, pi
from typing import Any

import numpy as np

COMPRESSION = 100
"""About twice the number of centroids that remain."""


@dataclass(frozen=True)
class Digest:
    """Centroids in ascending order."""

    means: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Digest:
        """From what ``as_dict`` returned."""
        return cls(tuple(state["means"]), tuple(state["weights"]))

    def as_dict(self) -> dict[str, list[float]]:
        """Plain data, ready for JSON."""
        return {"means": list(self.means), "weights": list(self.weights)}

    @property
    def total(self) -> float:
        """How many numbers it has seen."""
        return sum(self.weights)

    def add(self, values: Sequence[float]) -> Digest:
        """The digest of these numbers too."""
        pairs = sorted([*zip(self.means, self.weights, strict=True), *((value, 1.0) for value in values)])
        total, before = sum(weight for _, weight in pairs), 0.0
        merged: list[tuple[float, float]] = []
        for mean, weight in pairs:
            if merged:
                last_mean, last = merged[-1]
                if _place((before + last + weight) / total) - _place(before / total) <= 1:
                    grown = last + weight
                    merged[-1] = (last_mean + (mean - last_mean) * weight / grown, grown)
                    continue
                before += last
            merged.append((mean, weight))
        return Digest(tuple(mean for mean, _ in merged), tuple(weight for _, weight in merged))

    def quantile(self, share: float) -> float:
        """The number that this share of all lies below, between centroids by interpolation."""
        weights = np.array(self.weights)
        return float(np.interp(share * self.total, np.cumsum(weights) - weights / 2, self.means))


def _place(share: float) -> float:
    """k of a share of the weight."""
    return COMPRESSION / (2 * pi) * asin(2 * min(share, 1.0) - 1)
