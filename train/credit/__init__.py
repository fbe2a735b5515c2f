"""Credit: from rewards to advantages of rollouts or tokens. ``CREDITS`` maps the id in a config to its class."""

from __future__ import annotations

from .base import TokenAdvantage, TreeCredit, assign
from .brpo import Brpo
from .dr_grpo import DrGrpo
from .grouping import GroupStats
from .grpo import Grpo
from .reinforce_pp import ReinforcePP
from .rloo import Rloo
from .spo import Spo
from .tree_adv import TreeAdv
from .tree_grpo import TreeGrpo
from .treerl import TreeRL

CREDITS: dict[str, type] = {
    "grpo": Grpo,
    "dr_grpo": DrGrpo,
    "rloo": Rloo,
    "reinforce_pp": ReinforcePP,
    "brpo": Brpo,
    "tree_adv": TreeAdv,
    "treerl": TreeRL,
    "spo": Spo,
    "tree_grpo": TreeGrpo,
}
"""The built-in advantage estimators, by id. How each is called: ``base.py``."""

__all__ = [
    "CREDITS",
    "Brpo",
    "DrGrpo",
    "GroupStats",
    "Grpo",
    "ReinforcePP",
    "Rloo",
    "Spo",
    "TokenAdvantage",
    "TreeAdv",
    "TreeCredit",
    "TreeGrpo",
    "TreeRL",
    "assign",
]
