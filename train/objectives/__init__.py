"""Objectives: the loss of an update. ``OBJECTIVES`` maps the id in a config to its class."""

from __future__ import annotations

from .base import LossInputs, LossOutputs, Objective
from .clip import Clip
from .kl_cov import KlCov

OBJECTIVES: dict[str, type] = {"clip": Clip, "kl_cov": KlCov}
"""The built-in objectives, by id. Each is called with ``LossInputs``."""

__all__ = ["OBJECTIVES", "Clip", "KlCov", "LossInputs", "LossOutputs", "Objective"]
