"""`none`: the outcome alone.

Formula: r_i = c_i, which is 1 if response i is right, else 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .base import F64, Gate, Responses, RewardRange, Scope, ShapingDefaults

# Shapes: G responses of one prompt


@dataclass(frozen=True)
class NoShaping(ShapingDefaults):
    """r = c: one for a right response, zero for any other."""

    name: ClassVar[str] = "none"
    scope: ClassVar[Scope] = "response"
    # There is no length term to gate; "none" would announce one that reaches wrong responses.
    gate: ClassVar[Gate] = "correct_only"

    def range(self) -> RewardRange:
        return RewardRange(right=(1.0, 1.0), wrong=(0.0, 0.0))

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (G,)."""
        return responses.right_N.astype(np.float64)
