"""Truncation: cut tails of answers before they are trained. ``TRUNCATIONS`` maps the id in a config to its class."""

from __future__ import annotations

from .dot import Dot
from .none import NoTruncation

TRUNCATIONS: dict[str, type] = {"none": NoTruncation, "dot": Dot}
"""The built-in truncation methods, by id. Each has ``apply(group, right_G) -> (group, cut leaf ids)``."""

__all__ = ["TRUNCATIONS", "Dot", "NoTruncation"]
