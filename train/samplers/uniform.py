"""`uniform`: every problem once per epoch, in random order; as many prompts as the step trains on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .base import EpochOrder, Filter


@dataclass(frozen=True)
class Uniform:
    """Epoch permutations."""

    filter: Filter = "none"
    """``signal`` leaves out groups whose answers are all right or all wrong, so steps may train on fewer groups."""

    name: ClassVar[str] = "uniform"

    def build(self, problems: int, seed: int) -> UniformSampler:
        """A sampler over ``problems`` problems, at its start."""
        return UniformSampler(problems, seed)


class UniformSampler:
    """See ``Uniform``."""

    def __init__(self, problems: int, seed: int) -> None:
        self._order = EpochOrder(problems, seed)

    def draw(self, count: int) -> list[int]:
        return self._order.draw(count)

    def to_sample(self, batch: int) -> int:
        return batch

    def record(self, passed: int, sampled: int) -> None:
        """Nothing follows from it here."""

    def state_dict(self) -> dict[str, Any]:
        return self._order.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._order.load_state_dict(state)
