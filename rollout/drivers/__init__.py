"""Drivers: which calls to make for a group."""

from .flat import FlatDriver

DRIVERS = {"flat": FlatDriver}
"""Drivers by the name ``rollout.driver`` gives them."""

__all__ = ["DRIVERS", "FlatDriver"]
