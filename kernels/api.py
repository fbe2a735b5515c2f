"""The public names of the kernels. The folder has no ``__init__.py`` (see its README), so they live here."""

from __future__ import annotations

from .cascade_decode import DecodePlan, Segments, cascade_decode, plan_decode
from .fused_logprob import fused_logprob
from .logprob_head import LogProbOutput, add_logprob_head
from .merge_lse import merge_lse
from .pg_loss import LossSpec, PgLoss, pg_loss
from .tree_attn import tree_attention
from .tree_layout import TreeLayout

__all__ = [
    "DecodePlan",
    "LogProbOutput",
    "LossSpec",
    "PgLoss",
    "Segments",
    "TreeLayout",
    "add_logprob_head",
    "cascade_decode",
    "fused_logprob",
    "merge_lse",
    "pg_loss",
    "plan_decode",
    "tree_attention",
]
