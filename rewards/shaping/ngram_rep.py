"""`ngram_rep`: wrong responses lose in proportion to how much of them repeats itself.

    rep_i = 1 - (different n-grams) / (n-grams)                measure = ngrams; overlapping ones count
            share of tokens inside an n-gram met before        measure = tokens
    r_i   = c_i - (1 - c_i) * penalty * rep_i

An n-gram is `ngram` tokens in a row; a response with fewer has none, and rep = 0. By default only groups with a right
response are touched; as published (`all_wrong_groups: true`) all are. Right responses keep their reward.

The published sparse penalty counts lower-cased words; here it counts token ids, which need no decoding. The dense one
gives every token of a repeated n-gram -0.05, as a reward of its own with a discount of its own (0.99). One reward per
response cannot say that; `measure: tokens` counts the same tokens.

Source: Demystifying Long CoT, arXiv 2502.03373; eddycmu/demystify-long-cot (openrlhf/openrlhf/reward/repetition.py),
n = 40 tokens in its scripts. Its sparse penalty is 0, that is off, unless set; 0.5 is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from .base import F64, Gate, Invariant, Need, Responses, RewardRange, Scope, ShapingDefaults
from .needed import check_reached, needed

# Shapes: G responses of one prompt, T tokens of one of them


@dataclass(frozen=True)
class NgramRep(ShapingDefaults):
    """r = c, less penalty * share of repeats for a wrong response."""

    ngram: int = 40
    """Tokens that must recur in a row to count as a repeat."""
    penalty: float = 0.5
    """Deduction for a response that is all repeats."""
    measure: Literal["ngrams", "tokens"] = "ngrams"
    """Share of n-grams that were met before, or share of tokens that such n-grams cover."""
    all_wrong_groups: bool = False
    """Punish in groups without a right response, too, as published."""

    name: ClassVar[str] = "ngram_rep"
    scope: ClassVar[Scope] = "group"
    gate: ClassVar[Gate] = "sign_split"
    needs: ClassVar[frozenset[Need]] = frozenset({"ids"})

    def __post_init__(self) -> None:
        if self.ngram < 1:
            raise ConfigError(f"ngram_rep.ngram is {self.ngram} but must be at least 1 token; published is 40")
        if not self.penalty > 0:
            raise ConfigError(f"ngram_rep.penalty is {self.penalty} but must be above 0; it is deducted")
        if self.measure not in ("ngrams", "tokens"):
            raise ConfigError(f"ngram_rep.measure is {self.measure!r}; known: ngrams, tokens")

    @property
    def exceptions(self) -> Mapping[Invariant, str]:
        if not self.all_wrong_groups:
            return {}
        return {"all_wrong": "wrong responses that repeat themselves are punished in every group"}

    def range(self) -> RewardRange:
        return RewardRange(right=(1.0, 1.0), wrong=(-self.penalty, 0.0))

    def check(self, rollout: Any) -> None:
        """Refuse n-grams as long as the longest response."""
        check_reached(self.name, "ngram", self.ngram, rollout)

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (G,)."""
        ids_G = needed(responses.ids_N, self.name, "ids_N")
        reward_G = responses.right_N.astype(np.float64)
        if self.all_wrong_groups or responses.right_N.any():
            for row in np.flatnonzero(~responses.right_N):
                reward_G[row] -= self.penalty * self.share(ids_G[row])
        return reward_G

    def share(self, ids_T: NDArray[np.int32]) -> float:
        """How much of a response repeats itself, from 0 to 1."""
        flags = repeats(ids_T, self.ngram) if self.measure == "ngrams" else repeated_tokens(ids_T, self.ngram)
        return float(flags.mean()) if len(flags) else 0.0


def repeats(ids_T: NDArray[np.int32], ngram: int) -> NDArray[np.bool_]:
    """Whether the n-gram that begins here has begun before, bool (max(0, T - ngram + 1),)."""
    text = np.ascontiguousarray(ids_T, np.int32).tobytes()
    width, seen, flags = 4 * ngram, set[bytes](), []
    for start in range(0, len(text) - width + 1, 4):
        words = text[start : start + width]
        flags.append(words in seen)
        seen.add(words)
    return np.array(flags, dtype=bool)


def repeated_tokens(ids_T: NDArray[np.int32], ngram: int) -> NDArray[np.bool_]:
    """Whether a token is part of an n-gram that has occurred before, bool (T,)."""
    covered_T = np.zeros(len(ids_T), dtype=bool)
    for start in np.flatnonzero(repeats(ids_T, ngram)):
        covered_T[start : start + ngram] = True
    return covered_T
