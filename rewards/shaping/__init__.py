"""Shapings: how length enters the reward. One file per method; ``SHAPINGS`` maps the id in a config to its class."""

from __future__ import annotations

from .base import Gate, RewardRange, Scope, Shaping
from .checks import correct_dominance, length_only_signal
from .kimi_length import KimiLength
from .none import NoShaping

SHAPINGS: dict[str, type[Shaping]] = {"none": NoShaping, "kimi_length": KimiLength}
"""The built-in shapings, by id."""

__all__ = [
    "SHAPINGS",
    "Gate",
    "KimiLength",
    "NoShaping",
    "RewardRange",
    "Scope",
    "Shaping",
    "correct_dominance",
    "length_only_signal",
]
