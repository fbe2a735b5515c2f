"""Objectives: the loss of an update. ``OBJECTIVES`` maps the id in a config to its class."""

from __future__ import annotations

from .base import LossInputs, LossOutputs, Objective
from .cispo import Cispo
from .clip import Clip
from .dapo import Dapo
from .gppo import Gppo
from .gspo import Gspo
from .kl_cov import KlCov
from .ppo import Ppo
from .sapo import Sapo
from .vapo import Vapo
from .vcppo import VcPpo

OBJECTIVES: dict[str, type] = {
    "clip": Clip,
    "dapo": Dapo,
    "gppo": Gppo,
    "cispo": Cispo,
    "sapo": Sapo,
    "gspo": Gspo,
    "kl_cov": KlCov,
    "ppo": Ppo,
    "vcppo": VcPpo,
    "vapo": Vapo,
}
"""The built-in objectives, by id. Each is called with ``LossInputs``."""

__all__ = [
    "OBJECTIVES", "Cispo", "Clip", "Dapo", "Gppo", "Gspo", "KlCov", "LossInputs", "LossOutputs", "Objective", "Ppo",
    "Sapo", "VcPpo", "Vapo",
]  # fmt: skip
