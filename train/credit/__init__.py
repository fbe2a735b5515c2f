"""Credit: from rewards to one advantage per rollout. ``CREDITS`` maps the id in a config to its class."""

from __future__ import annotations

from .dr_grpo import DrGrpo
from .grouping import GroupStats
from .grpo import Grpo
from .rloo import Rloo

CREDITS: dict[str, type] = {"grpo": Grpo, "dr_grpo": DrGrpo, "rloo": Rloo}
"""The built-in advantage estimators, by id. Each is called with ``(reward_N, group_N)``."""

__all__ = ["CREDITS", "DrGrpo", "GroupStats", "Grpo", "Rloo"]
