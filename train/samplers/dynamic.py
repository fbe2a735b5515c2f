"""`dynamic`: DAPO's dynamic sampling, which samples round after round until the batch is full of groups with signal.

    a group passes                     if it has right and wrong answers (accuracy, never the shaped reward)
    prompts of each round              ceil(factor * batch)
    rounds                             until ``batch`` groups have passed, at most ``max_rounds``
    trained                            the first ``batch`` groups that passed

A round is sampled whole: the groups that are too many are dropped, as published. Where ``max_rounds`` were not enough,
``partial`` trains on those that passed (the normalizers count what is there) and ``error`` stops the run, as published.
`pds` reaches about the same batch in one round of a predicted size.

Source: DAPO, arXiv 2503.14476, and verl's recipe of it, recipe/dapo/dapo_ray_trainer.py (filter_groups). The limit of
10 rounds, and a factor of 3, are those of multimodal-art-projection/TreePO, recipe/treepo/run_treepo_train.sh.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ...errors import ConfigError, RunError
from .base import Filter, Round, SamplerDefaults

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dynamic:
    """Sample in rounds until enough groups have right and wrong answers."""

    factor: float = 1.0
    """Prompts sampled per round for each prompt trained, at least 1."""
    max_rounds: int = 10
    """Rounds after which a step has to do with what passed."""
    at_limit: Literal["partial", "error"] = "partial"
    """What then happens where fewer groups passed than wanted: train on those, or stop the run."""
    filter: Filter = "signal"
    """Which groups are trained; with ``none`` every group passes and one round is always enough."""

    name: ClassVar[str] = "dynamic"

    def __post_init__(self) -> None:
        if not 1 <= self.factor < math.inf:
            raise ConfigError(
                f"sampler.factor is {self.factor:g} but a round samples at least as many prompts as are trained; set "
                "1 or more"
            )
        if self.max_rounds < 1:
            raise ConfigError(f"sampler.max_rounds is {self.max_rounds} but must be at least 1; the usual value is 10")
        if self.at_limit not in ("partial", "error"):
            raise ConfigError(f"sampler.at_limit is {self.at_limit!r}; known: partial, error (as published)")

    def check(self, settings: Any) -> None:
        """Raise ``ConfigError`` where rounds make no sense."""
        if self.filter == "none":
            raise ConfigError(
                "sampler dynamic samples until enough groups pass the filter, but sampler.filter is none and every "
                "group passes; set sampler.filter=signal, or sampler.name=uniform"
            )
        if settings.rollout.park_after:
            raise ConfigError(
                f"sampler dynamic waits for the last answer of every round, but rollout.park_after = "
                f"{settings.rollout.park_after} parks the long ones; set sampler.name=pds, or leave "
                "rollout.park_after out"
            )

    def most_prompts(self, batch: int) -> int:
        """The most prompts a step samples."""
        return self.max_rounds * self.prompts_per_round(batch)

    def prompts_per_round(self, batch: int) -> int:
        """Prompts of one round."""
        return math.ceil(self.factor * batch)

    def describe(self, batch: int, group_size: int) -> list[str]:
        """What a dry run should say."""
        prompts, end = self.prompts_per_round(batch), "trains on fewer" if self.at_limit == "partial" else "stops"
        return [f"sampler dynamic: up to {self.max_rounds} rounds of {prompts} prompts, then the run {end}"]

    def build(self, problems: int, seed: int) -> DynamicSampler:
        """A sampler over ``problems`` problems, at its start."""
        return DynamicSampler(self, problems, seed)


class DynamicSampler(SamplerDefaults):
    """See ``Dynamic``."""

    def __init__(self, settings: Dynamic, problems: int, seed: int) -> None:
        super().__init__(problems, seed)
        self.settings = settings
        self._rounds = 0

    def to_sample(self, batch: int) -> int:
        return self.settings.prompts_per_round(batch)

    def ask(self, batch: int, group_size: int, waiting: int = 0) -> Round:
        self._rounds = 1
        return super().ask(batch, group_size, waiting)

    def ask_again(self, batch: int, group_size: int, passed: int) -> Round | None:
        if passed >= batch:
            return None
        if self._rounds < self.settings.max_rounds:
            self._rounds += 1
            return super().ask(batch, group_size)
        found = f"{passed} of {batch} groups passed the filter in {self._rounds} rounds of {self.to_sample(batch)}"
        remedy = "the problems are too easy or too hard for this model; choose others, or raise sampler.max_rounds"
        if self.settings.at_limit == "error":
            raise RunError(f"{found} prompts: {remedy}, or set sampler.at_limit=partial to train on fewer")
        log.warning("%s prompts, and the step trains on those: %s", found, remedy)
        return None

    def metrics(self) -> dict[str, float]:
        return {"sampler/rounds": self._rounds}
