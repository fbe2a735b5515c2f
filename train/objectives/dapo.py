"""`dapo`: the loss of DAPO, which is `clip` with a higher upper bound and a mean over the tokens of the update.

    -(1 / tokens) * sum_it min(rho_it A_i, clip(rho_it, 1 - 0.2, 1 + 0.28) A_i)

Long rows weigh as much as their tokens; a token of low probability may rise by more before its gradient stops. The
other parts of DAPO are chosen in their own sections: ``sampler.filter: signal`` with a sampler that fills up,
``reward.shaping: overlong_soft``, and no KL.

Source: DAPO, arXiv 2503.14476; values equal those of trl 1.16 for loss type dapo (and bnpo, where an update is one
micro-batch).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..rows import Normalizer
from .clip import Clip


@dataclass(frozen=True)
class Dapo(Clip):
    """Clip-higher, token mean."""

    epsilon_high: float = 0.28
    """A positive advantage stops acting where the ratio rises above 1 + epsilon_high."""
    normalizer: Normalizer = "token_mean"
    """What a row is divided by: the tokens of the update, its own length, or a constant."""

    name: ClassVar[str] = "dapo"
