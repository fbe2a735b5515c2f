"""`none`: the outcome alone.

Formula: r_i = c_i, which is 1 if response i is right, else 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .base import Gate, RewardRange, Scope, checked_group

# Shapes: G responses of one prompt


@dataclass(frozen=True)
class NoShaping:
    """r = c: one for a right response, zero for any other."""

    name: ClassVar[str] = "none"
    scope: ClassVar[Scope] = "response"
    # There is no length term to gate; "none" would announce one that reaches wrong responses.
    gate: ClassVar[Gate] = "correct_only"

    def range(self) -> RewardRange:
        return RewardRange(right=(1.0, 1.0), wrong=(0.0, 0.0))

    def __call__(self, right_G: ArrayLike, length_G: ArrayLike) -> NDArray[np.float64]:
        """Rewards, float64 (G,)."""
        return checked_group(right_G, length_G)[0].astype(np.float64)
