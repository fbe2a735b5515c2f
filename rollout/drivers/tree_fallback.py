"""Fallback: when no path of a tree lives and answers are missing, finished ones are cut back and continued anew.

Which answers, in what order:

    soft_boxed_and_eos      those that ended by themselves, shuffled
    boxed_ge_window         those with a boxed answer and at least ``least`` windows of tokens, shuffled
    finished_first          all, drawn without replacement in proportion to the priority of how they ended
    finished_first_strict   all, by that priority, ascending as published
    random_all              all, shuffled
    longer_first            all, drawn without replacement in proportion to their length

Where they are cut, in response tokens: at a random window's start, before the least likely token, at the start of a
block drawn by a softmax over minus (``block``) or plus (``inverse_block``) its mean log-prob, or at 0.

Source: TreePO, arXiv 2508.17445, and its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np

from ..records import Logps
from .tree_width import softmax

Pick = Literal[
    "soft_boxed_and_eos", "boxed_ge_window", "finished_first", "finished_first_strict", "random_all", "longer_first"
]
Cut = Literal["random", "min_logprob_token", "block", "inverse_block", "from_start"]


class Ending(IntEnum):
    """How an answer ended; the number is its priority in ``finished_first``."""

    REPETITION = 2
    LENGTH = 3
    """The completion cap."""
    DEPTH = 4
    EOS = 5
    ANSWERED = 7


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished answer, as far as fallback looks at it."""

    segment: int
    ending: Ending
    tokens: int


def order(finished: Sequence[Finished], pick: Pick, least_tokens: int, rng: np.random.Generator) -> list[Finished]:
    """The answers to fall back to, first one first."""
    if pick == "finished_first_strict":
        return sorted(finished, key=lambda answer: answer.ending)
    if pick == "soft_boxed_and_eos":
        finished = [answer for answer in finished if answer.ending >= Ending.EOS]
    elif pick == "boxed_ge_window":
        finished = [a for a in finished if a.ending is Ending.ANSWERED and a.tokens >= least_tokens]
    if pick in ("finished_first", "longer_first"):
        weight = [answer.ending if pick == "finished_first" else answer.tokens for answer in finished]
        score = np.log(weight) + rng.gumbel(size=len(finished))
        return [finished[index] for index in np.argsort(-score, kind="stable")]
    return [finished[index] for index in rng.permutation(len(finished))]


def cut_back(logp_T: Logps, cut: Cut, window: int, most_windows: int, block: int, rng: np.random.Generator) -> int:
    """How many tokens of an answer are kept: fewer than all, maybe none. ``most_windows`` 0 sets no bound."""
    if cut == "random":
        windows = -(-len(logp_T) // window)
        back = rng.integers(1, min(most_windows or windows, windows) + 1)
        return int(windows - back) * window
    if cut == "min_logprob_token":
        return int(np.argmin(logp_T))
    if cut == "from_start":
        return 0
    means = np.array([logp_T[at : at + block].mean() for at in range(0, len(logp_T), block)])
    return int(rng.choice(len(means), p=softmax(means if cut == "inverse_block" else -means))) * block
