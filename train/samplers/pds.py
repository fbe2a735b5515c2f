"""`pds`: Predictive Dynamic Sampling, which asks for enough prompts that the batch is full after filtering.

With h the last ``window`` pass rates (groups that passed the filter / groups sampled):

    f = initial_factor                              without history
        (1 + std(h)) / mean(h)                      if mean(h) > 0        std of the population
        max_factor                                  if mean(h) = 0
    prompts to sample = floor(batch * clip(f, min_factor, max_factor))

One round, no loop. Pass rates are measured after truncation. Unlike the released code, which stops at the end of the
epoch, a draw goes on into the next one, so a step is never short of prompts.

Source: Anti-Length Shift, arXiv 2601.03969, and its code, U-rara/DOT projects/dot/dot_ray_trainer.py
(DynamicSamplingStats).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import ConfigError
from .base import Filter, SamplerDefaults


@dataclass(frozen=True)
class Pds:
    """Oversample by (1 + std) / mean of the recent pass rates, within bounds."""

    window: int = 20
    """Steps whose pass rates are remembered."""
    initial_factor: float = 1.5
    """Prompts sampled per prompt trained, in the first step."""
    min_factor: float = 1.2
    """Smallest factor, at least 1."""
    max_factor: float = 5.0
    """Largest factor: bounds the cost of a step."""
    filter: Filter = "signal"
    """Which groups are trained; with ``none`` every group passes and there is nothing to predict."""

    name: ClassVar[str] = "pds"

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ConfigError(f"sampler.window is {self.window} but must be at least 1; the paper's value is 20")
        if not 1 <= self.min_factor <= self.initial_factor <= self.max_factor:
            raise ConfigError(
                f"sampler.min_factor {self.min_factor:g}, initial_factor {self.initial_factor:g} and max_factor "
                f"{self.max_factor:g} must rise in this order from 1 on; the paper's values are 1.2, 1.5 and 5"
            )

    def check(self, settings: Any) -> None:
        """Raise ``ConfigError`` where there is nothing to predict."""
        if self.filter == "none":
            raise ConfigError(
                "sampler pds asks for more prompts so that enough groups pass the filter, but sampler.filter is none "
                "and every group passes; set sampler.filter=signal, or sampler.name=uniform"
            )

    def most_prompts(self, batch: int) -> int:
        """The most prompts a step samples."""
        return int(batch * self.max_factor)

    def build(self, problems: int, seed: int) -> PdsSampler:
        """A sampler over ``problems`` problems, at its start."""
        return PdsSampler(self, problems, seed)


class PdsSampler(SamplerDefaults):
    """See ``Pds``."""

    def __init__(self, settings: Pds, problems: int, seed: int) -> None:
        super().__init__(problems, seed)
        self.settings = settings
        self._rates: deque[float] = deque(maxlen=settings.window)

    @property
    def factor(self) -> float:
        """Prompts to sample per prompt to train."""
        if not self._rates:
            wanted = self.settings.initial_factor
        elif (mean := float(np.mean(self._rates))) > 0:
            wanted = (1 + float(np.std(self._rates))) / mean
        else:
            wanted = self.settings.max_factor
        return min(max(wanted, self.settings.min_factor), self.settings.max_factor)

    def to_sample(self, batch: int) -> int:
        return int(batch * self.factor)

    def record(self, passed: int, sampled: int) -> None:
        if not 0 <= passed <= sampled or sampled < 1:
            raise ValueError(f"{passed} of {sampled} groups cannot have passed")
        self._rates.append(passed / sampled)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "rates": list(self._rates)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._rates = deque(state["rates"], maxlen=self.settings.window)
