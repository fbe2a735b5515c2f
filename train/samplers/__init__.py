"""Samplers: which prompts, and how many. ``SAMPLERS`` maps the id in a config to its settings class."""

from __future__ import annotations

from .base import EpochOrder, Filter, Norm, Outcome, Round, Sampler, SamplerDefaults
from .context_curriculum import ContextCurriculum, ContextCurriculumSampler, Stage
from .curriculum import Band, Curriculum, CurriculumSampler
from .dynamic import Dynamic, DynamicSampler
from .gvm import Gvm, GvmSampler
from .pds import Pds, PdsSampler
from .uniform import Uniform, UniformSampler

SAMPLERS: dict[str, type] = {
    "uniform": Uniform,
    "pds": Pds,
    "dynamic": Dynamic,
    "gvm": Gvm,
    "curriculum": Curriculum,
    "context_curriculum": ContextCurriculum,
}
"""The built-in samplers, by id. ``build(problems, seed)`` makes the running sampler."""

__all__ = [
    "SAMPLERS",
    "Band",
    "ContextCurriculum",
    "ContextCurriculumSampler",
    "Curriculum",
    "CurriculumSampler",
    "Dynamic",
    "DynamicSampler",
    "EpochOrder",
    "Filter",
    "Gvm",
    "GvmSampler",
    "Norm",
    "Outcome",
    "Pds",
    "PdsSampler",
    "Round",
    "Sampler",
    "SamplerDefaults",
    "Stage",
    "Uniform",
    "UniformSampler",
]
