"""`uniform`: every problem once per epoch, in random order; as many prompts as the step trains on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import Filter, SamplerDefaults


@dataclass(frozen=True)
class Uniform:
    """Epoch permutations."""

    filter: Filter = "none"
    """``signal`` leaves out groups whose answers are all right or all wrong, so steps may train on fewer groups."""

    name: ClassVar[str] = "uniform"

    def build(self, problems: int, seed: int) -> UniformSampler:
        """A sampler over ``problems`` problems, at its start."""
        return UniformSampler(problems, seed)


class UniformSampler(SamplerDefaults):
    """See ``Uniform``: all of it is in the defaults."""
