"""Samplers: which prompts, and how many. ``SAMPLERS`` maps the id in a config to its settings class."""

from __future__ import annotations

from .base import EpochOrder, Filter, Sampler
from .pds import Pds, PdsSampler
from .uniform import Uniform, UniformSampler

SAMPLERS: dict[str, type] = {"uniform": Uniform, "pds": Pds}
"""The built-in samplers, by id. ``build(problems, seed)`` makes the running sampler."""

__all__ = ["SAMPLERS", "EpochOrder", "Filter", "Pds", "PdsSampler", "Sampler", "Uniform", "UniformSampler"]
