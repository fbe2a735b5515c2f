"""`laser_de`: LASER-D, and as large a bonus for wrong responses beyond the target that do not repeat themselves.

    r_i = as in ``laser_d``     if c_i = 1
          wrong + bonus         if c_i = 0, L_i > LT_band and the response does not repeat itself
          wrong                 if c_i = 0 otherwise

A response that ran into the completion cap gets no bonus: the released code pays it for readable answers only. In a
group without a right response the bonus would be a gradient on length alone, towards longer ones; by default such
groups get none.

A response of L tokens repeats itself (n = 2 if L < 30, 3 if L < 100, else 4; never if L <= 8) if
    * one of its n-grams occurs k times (k = 2 if L < 200, else 3) from some place to its end, with two neighbouring
      occurrences less than floor(L / 3) tokens apart; n-grams of one repeated token do not count for n > 2; or
    * L >= 4n and any of its 2n-grams occurs twice, overlapping or not.

Source: LASER, arXiv 2505.15612, and its code, hkust-nlp/Laser (verl/utils/reward_score/length_penalty.py,
compute_unique_tokens.py). There the test for repetition gets token ids as a tensor, whose elements never compare equal
as keys, so that it never fires.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from ...errors import ConfigError
from .base import F64, Gate, Invariant, Need, Responses, RewardRange
from .laser_d import LaserD
from .needed import needed

# Shapes: N responses of a generation, G of one group


@dataclass(frozen=True)
class LaserDE(LaserD):
    """LASER-D that also pays wrong responses for exploring: longer than the target, without repetition."""

    all_wrong_groups: bool = False
    """Whether wrong responses earn the bonus in groups without a right one too, as published."""

    name: ClassVar[str] = "laser_de"
    gate: ClassVar[Gate] = "sign_split"
    needs: ClassVar[frozenset[Need]] = frozenset({"ids", "truncated"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.wrong + self.bonus < 1:
            raise ConfigError(
                f"laser_de.wrong {self.wrong} + bonus {self.bonus} must be below 1, the least reward of a right one; "
                "lower the bonus; published: -0.5 and 0.5"
            )

    def range(self) -> RewardRange:
        return RewardRange(right=(1.0, 1 + self.bonus), wrong=(self.wrong, self.wrong + self.bonus))

    @property
    def exceptions(self) -> Mapping[Invariant, str]:
        if not self.all_wrong_groups:
            return {}
        return {"all_wrong": "the published rule pays long wrong responses, so that hard prompts are explored"}

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (N,)."""
        ids_N = needed(responses.ids_N, self.name, "ids_N")
        ended_N = ~needed(responses.truncated_N, self.name, "truncated_N")
        reward_N = super().__call__(responses)
        explores_N = ~responses.right_N & ended_N & (responses.length_N > self.target_of(responses))
        for rows_G in responses.by_group():
            if self.all_wrong_groups or responses.right_N[rows_G].any():
                paid = [row for row in rows_G[explores_N[rows_G]] if not repeats(ids_N[row].tolist())]
                reward_N[paid] += self.bonus
        return reward_N


def repeats(ids: Sequence[int]) -> bool:
    """Whether a response repeats itself; see the module's docstring."""
    length = len(ids)
    if length <= 8:
        return False
    n, enough, apart = 2 if length < 30 else 3 if length < 100 else 4, 2 if length < 200 else 3, length // 3
    later: dict[tuple[int, ...], list[int]] = {}
    for start in range(length - n, -1, -1):
        gram = tuple(ids[start : start + n])
        if n > 2 and len(set(gram)) == 1:
            continue
        places = later.setdefault(gram, [])
        places.append(start)
        # Pairs before the last few were far apart, or this would have ended there.
        if len(places) >= enough and any(one - other < apart for one, other in pairwise(places[-enough:])):
            return True
    doubles = {tuple(ids[start : start + 2 * n]) for start in range(length - 2 * n + 1)}
    return length >= 4 * n and len(doubles) < length - 2 * n + 1
