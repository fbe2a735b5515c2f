"""`gfpo`: sample many responses, train the k shortest, or the k with the most reward per token.

    m_i = -L_i             rank = shortest
          r_i / L_i        rank = token_efficiency
    S   = the k responses of the group with the largest m, of equal ones the first
    A_i = (r_i - mean) / sd     for i in S, 0 for all others

The credit method computes A: from the rewards of S alone (stats = kept, as published), or of the whole group (stats =
all). k / G is the control: sampling more and keeping as many is what shortens; keeping 6 of 8 hardly does anything.
Being right is no condition: a short wrong response is kept, and gets a negative advantage.

The trap: with a reward of 0 or 1, ``token_efficiency`` keeps right responses only as soon as there are k of them, and
``shortest`` often keeps k of one kind too. They are all equal, so S alone teaches nothing. By default such a group is
compared as a whole (stats = kept_or_all), so that right ones that are kept stand above the wrong ones that are not.
Under any of these a group of equal rewards has A = 0.

adaptive: k depends on how the group's mean reward compares with those of all prompts so far (quartiles of a digest):
hardest quarter first, ``keep_by_quartile``. Until ``warm`` prompts have been seen, k is ``keep``.

A response that is not kept still counts in the number of rollouts and tokens that the loss divides by.

Source: Sample More to Think Less, arXiv 2508.09726; no code of the authors is known to us. That ties go to the first,
and ``warm``, are ours. The paper divides by the standard deviation with ddof 0 (from memory), credit grpo here with
ddof 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ...errors import ConfigError
from ..shaping.base import F64, Responses
from .base import Selected, SelectionDefaults
from .digest import Digest

# Shapes: N responses of a generation, G of one group


@dataclass(frozen=True)
class Gfpo(SelectionDefaults):
    """Trains the ``keep`` shortest or most token-efficient responses of each group."""

    keep: int = 8
    """k: responses trained of each group; published: 8 of 24, 8 of 16, 4 of 16."""
    rank: Literal["shortest", "token_efficiency"] = "shortest"
    """Keep the shortest responses, or those with the most reward per token."""
    stats: Literal["kept_or_all", "kept", "all"] = "kept_or_all"
    """Whose rewards a kept one is compared with: the kept ones' (published), all of the group's, or the kept ones'
    unless these are equal."""
    adaptive: bool = False
    """Whether k depends on how hard the prompt is beside earlier ones."""
    keep_by_quartile: tuple[int, int, int, int] = (8, 8, 6, 4)
    """k of the hardest quarter of prompts, of the second, the third, and the easiest."""
    warm: int = 64
    """Prompts seen before ``keep_by_quartile`` is used."""

    name: ClassVar[str] = "gfpo"

    def __post_init__(self) -> None:
        for key, value in (("keep", self.keep), ("keep_by_quartile", min(self.keep_by_quartile)), ("warm", self.warm)):
            if value < 1:
                raise ConfigError(f"gfpo.{key} is {getattr(self, key)} but must be at least 1; raise it")
        if self.rank not in ("shortest", "token_efficiency"):
            raise ConfigError(f"gfpo.rank is {self.rank!r}; known: shortest, token_efficiency")
        if self.stats not in ("kept_or_all", "kept", "all"):
            raise ConfigError(f"gfpo.stats is {self.stats!r}; known: kept_or_all, kept (as published), all")

    @property
    def scope(self) -> Literal["group", "history"]:  # type: ignore[override]
        return "history" if self.adaptive else "group"

    def check(self, rollout: Any) -> None:
        fewest = min(self.keep_by_quartile) if self.adaptive else self.keep
        if fewest >= rollout.group_size:
            raise ConfigError(
                f"gfpo keeps {fewest} responses of each group but rollout.group_size is {rollout.group_size}, so it "
                f"would keep all; raise rollout.group_size to {2 * fewest} or more, or lower gfpo.keep"
            )

    def first_state(self) -> dict[str, Any]:
        return Digest().as_dict() if self.adaptive else {}

    def next_state(self, responses: Responses, reward_N: F64, state: Mapping[str, Any]) -> dict[str, Any]:
        """Adds the mean rewards of a generation's groups to those of all prompts so far."""
        if not self.adaptive:
            return {}
        means = [float(reward_N[rows_G].mean()) for rows_G in responses.by_group()]
        return Digest.of(state).add(means).as_dict()

    def kept(self, mean_reward: float, state: Mapping[str, Any]) -> int:
        """k of a group with this mean reward."""
        if not self.adaptive or (seen := Digest.of(state)).total < self.warm:
            return self.keep
        harder = [mean_reward < seen.quantile(quarter) for quarter in (0.25, 0.5, 0.75)]
        return self.keep_by_quartile[harder.index(True) if any(harder) else 3]

    def __call__(self, responses: Responses, reward_N: F64, state: Mapping[str, Any]) -> Selected:
        """The choice in every group of a generation."""
        keep_N = np.zeros(len(responses), dtype=bool)
        counted_N = np.ones(len(responses), dtype=bool)
        score_N = -responses.length_N
        if self.rank == "token_efficiency":
            score_N = reward_N / np.maximum(responses.length_N, 1)
        for rows_G in responses.by_group():
            best = rows_G[np.argsort(-score_N[rows_G], kind="stable")]
            best = best[: self.kept(float(reward_N[rows_G].mean()), state)]
            keep_N[best] = True
            if self.stats == "kept" or (self.stats == "kept_or_all" and np.ptp(reward_N[best]) > 0):
                counted_N[rows_G] = keep_N[rows_G]
        return Selected(keep_N, counted_N)


def excess_length_reduction(grpo: float, base: float, other: float) -> float:
    """Share of the length that plain GRPO adds to its base model which another method saves."""
    return (grpo - other) / (grpo - base)
