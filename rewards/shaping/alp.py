"""`alp`: a price per token that is proportional to how often the prompt is solved.

    p   = share of right responses among the K of the prompt
    r_i = c_i - (beta / norm) * max(p, 1 / K) * L_i          all_wrong_groups = true, as published
          c_i - (beta / norm) * p * L_i                      all_wrong_groups = false

All responses pay, right and wrong. The floor 1 / K acts at p = 0 alone: there it gives rewards that differ by length
only, which teaches to give up early on hard prompts, so by default an unsolved prompt costs nothing. Where all are
right a token costs beta / norm.

Where ``norm`` is left out it is the completion cap, and longer responses, which some drivers give, count as that long:
a right one then keeps at least 1 - beta, and none scores below a wrong one. A ``norm`` of its own gives no such bound.

Source: Just Enough Thinking, arXiv 2506.05256; the formula is read from digests of the paper. Its beta and its norm
are unknown to us; beta / norm * cap = 0.5 is our choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ...errors import ConfigError
from .base import F64, Invariant, Need, Responses, RewardRange, Scope, ShapingDefaults
from .needed import needed

# Shapes: G responses of one prompt


@dataclass(frozen=True)
class Alp(ShapingDefaults):
    """r = c - beta p L / norm: tokens of prompts that are always solved cost most, those of unsolved ones nothing."""

    beta: float = 0.5
    """Price of a response of ``norm`` tokens where all are right; below 1 unless ``norm`` is given."""
    norm: int | None = None
    """Tokens that beta is the price of; none: the completion cap, at which the price ends."""
    all_wrong_groups: bool = False
    """Whether responses pay where none is right, at 1 / K of the full price, as published."""
    gate: Literal["none", "correct_only"] = "none"
    """Whether all responses pay, as published, or right ones only."""

    name: ClassVar[str] = "alp"
    scope: ClassVar[Scope] = "group"
    needs: ClassVar[frozenset[Need]] = frozenset({"cap"})

    def __post_init__(self) -> None:
        if not self.beta > 0 or (self.norm is None and self.beta >= 1):
            raise ConfigError(
                f"alp.beta is {self.beta} but must be above 0, and below 1 where norm is left out, so that a right "
                "response never scores below a wrong one; choose 0.5, or give norm as well"
            )
        if self.norm is not None and self.norm < 1:
            raise ConfigError(f"alp.norm is {self.norm} but counts tokens, at least 1; leave it out for the cap")
        if self.gate not in ("none", "correct_only"):
            raise ConfigError(f"alp.gate is {self.gate!r}; known: none (all pay, as published), correct_only")
        if self.all_wrong_groups and self.gate == "correct_only":
            raise ConfigError(
                "alp.all_wrong_groups prices prompts without a right response, but alp.gate is correct_only; set "
                "alp.gate=none, or alp.all_wrong_groups=false"
            )

    def range(self) -> RewardRange:
        most = self.beta if self.norm is None else np.inf
        return RewardRange(right=(1 - most, 1.0), wrong=(0.0 if self.gate == "correct_only" else -most, 0.0))

    @property
    def exceptions(self) -> Mapping[Invariant, str]:
        broken: dict[Invariant, str] = {}
        if self.norm is not None:
            broken["dominance"] = "a right response of more than norm / (beta p) tokens pays more than the 1 it earns"
        if self.all_wrong_groups:
            broken["all_wrong"] = "the published floor prices tokens of prompts without a right response as well"
        return broken

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (G,)."""
        right_G = responses.right_N
        solved = float(right_G.mean())
        price = self.beta * (max(solved, 1 / len(responses)) if self.all_wrong_groups else solved)
        return right_G - price * self._share(responses) * (right_G if self.gate == "correct_only" else 1.0)

    def _share(self, responses: Responses) -> F64:
        """Lengths in units of the norm, (G,)."""
        if self.norm is not None:
            return responses.length_N / self.norm
        return np.minimum(responses.length_N / needed(responses.cap, self.name, "cap"), 1.0)
