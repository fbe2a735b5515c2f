"""Selections: which responses of a group are trained. ``SELECTIONS`` maps the id in a config to its class."""

from __future__ import annotations

from .base import Selected, Selection, selection_metrics
from .gfpo import Gfpo
from .keep_all import KeepAll

SELECTIONS: dict[str, type] = {"all": KeepAll, "gfpo": Gfpo}
"""The built-in selections, by id."""

__all__ = ["SELECTIONS", "Gfpo", "KeepAll", "Selected", "Selection", "selection_metrics"]
