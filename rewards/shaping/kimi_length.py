"""`kimi_length`: the length reward of Kimi k1.5, linear between the shortest and the longest response of the group.

    lam_i = 0.5 - (L_i - Lmin) / (Lmax - Lmin)        Lmin, Lmax over all responses, right and wrong
    len_i = lam_i            if c_i = 1
            min(0, lam_i)    if c_i = 0 and gate = sign_split
            0                if c_i = 0 and gate = correct_only
    r_i   = c_i + weight * len_i

All lengths equal, a group of one included: len = 0. The published rule (`sign_split`) gives an all-wrong group rewards
that differ by length only, which teaches to give up early on hard prompts; the default leaves wrong responses at 0.

In an all-right group the weight cancels under credit that divides by the group's standard deviation.

Source: Kimi k1.5, arXiv 2501.12599. The paper names no weight; 0.4 is that of the re-implementation in
hkust-nlp/Laser (verl/utils/reward_score/length_penalty.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ...errors import ConfigError
from .base import F64, Invariant, Responses, RewardRange, Scope, ShapingDefaults

# Shapes: G responses of one prompt


@dataclass(frozen=True)
class KimiLength(ShapingDefaults):
    """r = c + weight * len, where len falls from 0.5 for the shortest response of the group to -0.5 for the longest."""

    weight: float = 0.4
    """Share of the length term, above 0 and at most 1, so that the longest right response keeps at least 0.5."""
    gate: Literal["correct_only", "sign_split"] = "correct_only"
    """Whether length moves right responses only, or also punishes wrong ones in the longer half, as published."""
    max_quantile: float = 1.0
    """Quantile of the group's lengths that stands for Lmax; longer responses count as that long. Below 1 it keeps a
    single truncated response from flattening the differences among all others."""

    name: ClassVar[str] = "kimi_length"
    scope: ClassVar[Scope] = "group"

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ConfigError(
                f"kimi_length.weight is {self.weight} but must be above 0 and at most 1, so that a right response "
                "never scores below a wrong one; choose a smaller one, or shaping 'none' for no length reward"
            )
        if self.gate not in ("correct_only", "sign_split"):
            raise ConfigError(f"kimi_length.gate is {self.gate!r}; known: correct_only, sign_split (as published)")
        if not 0 < self.max_quantile <= 1:
            raise ConfigError(
                f"kimi_length.max_quantile is {self.max_quantile} but must be above 0 and at most 1 (the longest)"
            )

    def range(self) -> RewardRange:
        half = 0.5 * self.weight
        return RewardRange(right=(1 - half, 1 + half), wrong=(-half if self.gate == "sign_split" else 0.0, 0.0))

    @property
    def exceptions(self) -> Mapping[Invariant, str]:
        if self.gate == "correct_only":
            return {}
        return {"all_wrong": "the published rule takes up to half the weight off wrong responses in the longer half"}

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (G,)."""
        right_G = responses.right_N
        lam_G = length_lambda(responses.length_N, self.max_quantile)
        wrong_G = np.minimum(0.0, lam_G) if self.gate == "sign_split" else np.zeros_like(lam_G)
        return right_G + self.weight * np.where(right_G, lam_G, wrong_G)


def length_lambda(length_G: F64, max_quantile: float = 1.0) -> F64:
    """lam, from 0.5 for the shortest to -0.5 for the longest; 0 for all if they are equally long. float64 (G,)."""
    longest = float(np.quantile(length_G, max_quantile))
    clipped_G = np.minimum(length_G, longest)
    shortest = float(clipped_G.min())
    if shortest == longest:
        return np.zeros_like(clipped_G)
    return 0.5 - (clipped_G - shortest) / (longest - shortest)
