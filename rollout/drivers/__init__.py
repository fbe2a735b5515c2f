"""Drivers: which calls to make for a group."""

from .anytime import AnytimeDriver
from .flat import FlatDriver
from .fork_join import ForkJoinDriver

DRIVERS: dict[str, type] = {"flat": FlatDriver, "anytime": AnytimeDriver, "fork_join": ForkJoinDriver}
"""Drivers by the name ``rollout.driver`` gives them."""

__all__ = ["DRIVERS", "AnytimeDriver", "FlatDriver", "ForkJoinDriver"]
