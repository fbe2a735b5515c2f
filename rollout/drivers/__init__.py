"""Drivers: which calls to make for a group."""

from .anytime import AnytimeDriver
from .budget_force import BudgetForceDriver
from .delethink import DelethinkDriver
from .eptree import EPTreeDriver
from .flat import FlatDriver
from .fork_join import ForkJoinDriver
from .summary import SummaryDriver
from .treepo import TreePODriver

DRIVERS: dict[str, type] = {
    "flat": FlatDriver,
    "anytime": AnytimeDriver,
    "fork_join": ForkJoinDriver,
    "budget_force": BudgetForceDriver,
    "delethink": DelethinkDriver,
    "summary": SummaryDriver,
    "treepo": TreePODriver,
    "eptree": EPTreeDriver,
}
"""Drivers by the name ``rollout.driver`` gives them."""

__all__ = [
    "DRIVERS",
    "AnytimeDriver",
    "FlatDriver",
    "ForkJoinDriver",
    "BudgetForceDriver",
    "DelethinkDriver",
    "SummaryDriver",
    "TreePODriver",
    "EPTreeDriver",
]
