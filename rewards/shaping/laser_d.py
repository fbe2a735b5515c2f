"""`laser_d`: a bonus for right responses within a target length that follows the difficulty of the prompt.

    band_i = high if p >= 2/3, medium if p >= 1/3, else low         p: share of right responses of the group
    r_i    = 1 + bonus    if c_i = 1 and L_i <= LT_band
             1            if c_i = 1 otherwise
             wrong        if c_i = 0
    cov(T) = share of the responses seen in a band, right or wrong, with L <= T
    m      = floor(2n/3) high, floor(n/3) medium, 1 low             n: responses of a group
    LT     = smallest T of lower, lower + interval, ..., upper with floor(cov(T) * m) >= 1, but no more than the longest
             response of the generation, which it also is without such a T

In words: at least one right response is expected to survive a cut at the target. With n = 8 that asks for a fifth of
the responses of solved prompts, half of the medium ones, and all of the hard ones, which are left alone. Below the
target all right responses tie, so nothing draws the length to 0.

Targets are renewed every ``every`` generations from the responses trained on since then. The paper samples 500
training problems as often for that alone; until the first renewal ``target`` stands for all bands.

Source: LASER, arXiv 2505.15612, and its code, hkust-nlp/Laser (verl/utils/reward_score/length_penalty.py,
count_length_distribution.py). Its monitor assigns a p at the edge of two bands to the lower one, its reward to the
higher one; here both do the latter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import ConfigError
from .base import F64, Gate, Responses, RewardRange, Scope, ShapingDefaults
from .needed import check_reached

# Shapes: N responses of a generation, G of one group, T thresholds

BANDS = ("high", "medium", "low")
"""By share of right responses."""


@dataclass(frozen=True)
class LaserD(ShapingDefaults):
    """A right response within the target length of its difficulty band earns 1 + bonus, a longer one 1."""

    bonus: float = 0.5
    """Reward of keeping to the target, above 0."""
    target: int = 4096
    """Target of all bands until the first renewal, tokens."""
    lower: int = 1024
    """Smallest target; the released runs use 1024, 2048 and 4096."""
    interval: int = 1024
    """Tokens between targets."""
    upper: int = 16_384
    """Largest target."""
    every: int = 20
    """Generations between two renewals of the targets."""
    wrong: float = 0.0
    """Reward of a wrong response, at most 0; published: -0.5, and -1 without a readable answer."""

    name: ClassVar[str] = "laser_d"
    scope: ClassVar[Scope] = "history"
    gate: ClassVar[Gate] = "correct_only"

    def __post_init__(self) -> None:
        if not 0 < self.bonus < 1:
            raise ConfigError(f"{self.name}.bonus is {self.bonus} but must be above 0 and below 1; published: 0.5")
        for key in ("target", "lower", "interval", "every"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{self.name}.{key} is {getattr(self, key)} but must be at least 1; raise it")
        if self.upper < self.lower:
            raise ConfigError(
                f"{self.name}.upper {self.upper} is below lower {self.lower}, so there is no target to choose; raise it"
            )
        if not -1 <= self.wrong <= 0:
            raise ConfigError(f"{self.name}.wrong is {self.wrong} but must be from -1 to 0; published: -0.5")

    def check(self, rollout: Any) -> None:
        """Refuse a run in which no response can exceed a target."""
        check_reached(self.name, "lower", self.lower, rollout)

    def range(self) -> RewardRange:
        return RewardRange(right=(1.0, 1 + self.bonus), wrong=(self.wrong, self.wrong))

    @property
    def thresholds(self) -> NDArray[np.int64]:
        """The targets to choose from, (T,)."""
        return np.arange(self.lower, self.upper + 1, self.interval)

    def counts(self, lengths: ArrayLike) -> list[int]:
        """How many lengths lie above the threshold before each one and up to it, and above the last: T + 1 numbers."""
        place = np.searchsorted(self.thresholds, np.asarray(lengths), side="left")
        return np.bincount(place, minlength=len(self.thresholds) + 1).tolist()

    def targets(self, seen: Mapping[str, list[int]], size: int) -> dict[str, int | None]:
        """LT of each band by the ``counts`` seen in it, of groups of ``size``; none where no threshold will do."""
        targets: dict[str, int | None] = {}
        for band, survivors in zip(BANDS, (2 * size // 3, size // 3, 1), strict=True):
            total, covered_T = sum(seen[band]), np.cumsum(seen[band])[:-1]
            fit = np.flatnonzero(covered_T * survivors >= max(total, 1))
            targets[band] = int(self.thresholds[fit[0]]) if len(fit) else None
        return targets

    def first_state(self) -> dict[str, Any]:
        return {"targets": dict.fromkeys(BANDS, self.target), **self._nothing_seen()}

    def next_state(self, responses: Responses) -> dict[str, Any]:
        """Adds the lengths of a generation to those seen since the targets were chosen, or chooses them anew."""
        state = responses.state
        seen, size = {band: list(state["seen"][band]) for band in BANDS}, state["size"]
        for rows_G in responses.by_group():
            band, more = band_of(responses.right_N[rows_G]), self.counts(responses.length_N[rows_G])
            seen[band] = [old + new for old, new in zip(seen[band], more, strict=True)]
            size = max(size, len(rows_G))
        if state["generations"] + 1 < self.every:
            return {"targets": state["targets"], "seen": seen, "size": size, "generations": state["generations"] + 1}
        return {"targets": self.targets(seen, size), **self._nothing_seen()}

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (N,)."""
        within_N = responses.length_N <= self.target_of(responses)
        return np.where(responses.right_N, 1 + self.bonus * within_N, self.wrong)

    def target_of(self, responses: Responses) -> F64:
        """LT of every response, (N,)."""
        longest, target_N = float(responses.length_N.max()), np.empty(len(responses))
        for rows_G in responses.by_group():
            target = responses.state["targets"][band_of(responses.right_N[rows_G])]
            target_N[rows_G] = longest if target is None else min(target, longest)
        return target_N

    def _nothing_seen(self) -> dict[str, Any]:
        return {"seen": {band: self.counts([]) for band in BANDS}, "size": 0, "generations": 0}


def band_of(right_G: NDArray[np.bool_]) -> str:
    """Difficulty band of a group."""
    right, size = int(right_G.sum()), len(right_G)
    return "high" if 3 * right >= 2 * size else "medium" if 3 * right >= size else "low"
