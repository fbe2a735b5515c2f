"""Shapings: how length enters the reward. One file per method; ``SHAPINGS`` maps the id in a config to its class."""

from __future__ import annotations

from .adaptive_lagrangian import AdaptiveLagrangian
from .adaptthink import AdaptThink
from .alp import Alp
from .arora_sigmoid import AroraSigmoid
from .autothink import AutoThink
from .base import F64, Gate, Invariant, Need, Responses, RewardRange, Scope, Shaping, ShapingDefaults
from .checks import correct_dominance, length_only_signal, length_only_wrong
from .cosine import Cosine
from .dler import Dler
from .grpo_lambda import GrpoLambda
from .hapo import Hapo
from .hgpo import Hgpo
from .kimi_length import KimiLength
from .laser import Laser
from .laser_d import LaserD
from .laser_de import LaserDE
from .lcpo_exact import LcpoExact
from .lcpo_max import LcpoMax
from .ngram_rep import NgramRep
from .none import NoShaping
from .o1_pruner import O1Pruner
from .overlong_soft import OverlongSoft
from .parallel_accel import ParallelAccel
from .phi4_length import Phi4Length
from .s_grpo import SGrpo
from .short_rl import ShortRl
from .shorterbetter import ShorterBetter
from .thinkless import Thinkless
from .thinkprune import ThinkPrune
from .tldr import Tldr

SHAPINGS: dict[str, type[Shaping]] = {
    "none": NoShaping,
    "kimi_length": KimiLength,
    "adaptthink": AdaptThink,
    "thinkless": Thinkless,
    "autothink": AutoThink,
    "adaptive_lagrangian": AdaptiveLagrangian,
    "o1_pruner": O1Pruner,
    "hapo": Hapo,
    "cosine": Cosine,
    "dler": Dler,
    "laser": Laser,
    "lcpo_exact": LcpoExact,
    "lcpo_max": LcpoMax,
    "ngram_rep": NgramRep,
    "overlong_soft": OverlongSoft,
    "parallel_accel": ParallelAccel,
    "phi4_length": Phi4Length,
    "thinkprune": ThinkPrune,
    "tldr": Tldr,
    "arora_sigmoid": AroraSigmoid,
    "alp": Alp,
    "shorterbetter": ShorterBetter,
    "hgpo": Hgpo,
    "short_rl": ShortRl,
    "grpo_lambda": GrpoLambda,
    "laser_d": LaserD,
    "laser_de": LaserDE,
    "s_grpo": SGrpo,
}
"""The built-in shapings, by id."""

__all__ = [
    "F64",
    "SHAPINGS",
    "AdaptThink",
    "AdaptiveLagrangian",
    "Alp",
    "AroraSigmoid",
    "AutoThink",
    "Cosine",
    "Dler",
    "Gate",
    "GrpoLambda",
    "Hapo",
    "Hgpo",
    "Invariant",
    "KimiLength",
    "Laser",
    "LaserD",
    "LaserDE",
    "LcpoExact",
    "LcpoMax",
    "Need",
    "NgramRep",
    "NoShaping",
    "O1Pruner",
    "OverlongSoft",
    "ParallelAccel",
    "Phi4Length",
    "Responses",
    "RewardRange",
    "SGrpo",
    "Scope",
    "Shaping",
    "ShapingDefaults",
    "ShortRl",
    "ShorterBetter",
    "ThinkPrune",
    "Thinkless",
    "Tldr",
    "correct_dominance",
    "length_only_signal",
    "length_only_wrong",
]
