"""`curriculum`: problems of the right difficulty, by the solve rate that training itself has seen.

    p_i = share of right answers to problem i in past rollouts (discounted by ``memory``)
    problem i is drawn       if p_i is unknown, or hardest < p_i <= easiest in the band of this generation
                passed over  otherwise; after a few epochs it is unknown again and gets another look

The default band, 0 < p <= 1, leaves out what is never solved: groups of wrong answers alone teach nothing, or, with a
length term that reaches them, to give up. Bands by generation make a course from easy to hard. ``few`` stops the search
once that many problems of the band are known, and goes through those again and again.

Where a whole epoch holds nothing for the band, the next problems are drawn as they come.

Source: Concise Reasoning via Reinforcement Learning, arXiv 2504.05185, whose second phase trains on few problems with
0 < p <= 1 (its abstract; it sorts before training). The bands, the discounting and the second look are our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ConfigError
from .base import Filter, Outcome, SamplerDefaults
from .solve_rates import SolveRates


@dataclass(frozen=True)
class Band:
    """Solve rates above ``hardest`` and up to ``easiest``, from generation ``step`` on."""

    step: int = 0
    """First generation of the band, from 0."""
    hardest: float = 0.0
    """Problems solved no more often than this are too hard; negative lets in those that never are."""
    easiest: float = 1.0
    """Problems solved more often than this are too easy."""


@dataclass(frozen=True)
class Curriculum:
    """Draw the problems whose solve rate lies in a band."""

    bands: tuple[Band, ...] = (Band(),)
    """Bands with rising ``step``; the first begins at 0."""
    few: int = 0
    """Problems of the band that are enough; 0 goes through all problems."""
    memory: float = 0.5
    """Weight of what was known when a problem is seen again or passed over."""
    filter: Filter = "none"
    """``signal`` leaves out groups whose answers are all right or all wrong."""

    name: ClassVar[str] = "curriculum"
    looks_back: ClassVar[bool] = True
    """It learns of a problem from earlier answers to it."""

    def __post_init__(self) -> None:
        steps = [band.step for band in self.bands]
        if not steps or steps[0] != 0 or sorted(set(steps)) != steps:
            raise ConfigError(f"sampler.bands begin at {steps} but must begin at 0 and rise; sort them by step")
        for band in self.bands:
            if not band.hardest < band.easiest <= 1:
                raise ConfigError(
                    f"the band of step {band.step} goes from {band.hardest:g} to {band.easiest:g}, but hardest must be "
                    "below easiest, and that at most 1"
                )
        if self.few < 0 or not 0 <= self.memory < 1:
            raise ConfigError(
                f"sampler.few is {self.few} and sampler.memory {self.memory:g}, but these must be at least 0, and the "
                "second below 1: what was once too hard would never be tried again"
            )

    def check(self, settings: Any) -> None:
        """Raise ``ConfigError`` for fewer problems than a step has prompts."""
        prompts = settings.rollout.prompts_per_step
        if 0 < self.few < prompts:
            raise ConfigError(
                f"sampler.few is {self.few} but a step has {prompts} prompts (rollout.prompts_per_step), so that it "
                f"would hold a problem twice; set sampler.few={prompts} or more"
            )

    def build(self, problems: int, seed: int) -> CurriculumSampler:
        """A sampler over ``problems`` problems, at its start."""
        return CurriculumSampler(self, problems, seed)


class CurriculumSampler(SamplerDefaults):
    """See ``Curriculum``."""

    def __init__(self, settings: Curriculum, problems: int, seed: int) -> None:
        super().__init__(problems, seed)
        self.settings = settings
        self._rates = SolveRates(settings.memory)
        self._band = settings.bands[0]
        self._turn = 0
        """Problems drawn so far out of a few."""
        self._passed_over = 0

    def begin(self, generation: int) -> None:
        self._band = [band for band in self.settings.bands if band.step <= generation][-1]

    def draw(self, count: int) -> list[int]:
        self._passed_over = 0
        few = [problem for problem in self._rates if self._fits(problem)][: self.settings.few]
        if self.settings.few and len(few) == self.settings.few:
            self._turn += count
            return [few[turn % len(few)] for turn in range(self._turn - count, self._turn)]
        return [self._next() for _ in range(count)]

    def record_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._rates.see(outcome)

    def metrics(self) -> dict[str, float]:
        return {"sampler/passed_over": self._passed_over, "sampler/known": len(self._rates)}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "turn": self._turn, "rates": self._rates.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._turn = state["turn"]
        self._rates.load_state_dict(state["rates"])

    def _next(self) -> int:
        for _ in range(self._order.problems):
            (problem,) = self._order.draw(1)
            if self._fits(problem):
                return problem
            self._rates.pass_over(problem)
            self._passed_over += 1
        return self._order.draw(1)[0]

    def _fits(self, problem: int) -> bool:
        rate = self._rates.rate(problem)
        return rate is None or self._band.hardest < rate <= self._band.easiest
