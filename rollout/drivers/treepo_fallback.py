"""What a tree does when no path is live and leaves are missing: cut finished paths back, and sample on from there.

    order of the finished paths: ``PickPolicy``                 which are taken first
    cut: tokens kept of a path of L tokens, windows of f        ``CutPolicy``
      random               (nb - b) * f, nb = ceil(L / f), b uniform in 1..min(most windows, nb)
      min_logprob_token    before the least likely token
      block                a block's begin, drawn by softmax of -(mean log-prob of the block); inverse_block: of +
      from_start           0

A path shorter than a window is sampled anew from the prompt. A cut that would leave no depth is moved back to the
begin of the last segment.

Source: TreePO, arXiv 2508.17445; multimodal-art-projection/TreePO, ``vllm_rollout_spmd.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Literal

import numpy as np

from ..records import Logps


class Reason(IntEnum):
    """Why a path is finished; the numbers are the published priorities."""

    ANSWER = 1
    EOS = 3
    DEPTH = 4
    LENGTH = 5
    REPETITION = 6


PickPolicy = Literal[
    "none",
    "finished_first",
    "finished_first_strict",
    "random_all",
    "longer_first",
    "soft_boxed_and_eos",
    "boxed_ge_window",
]
CutPolicy = Literal["random", "min_logprob_token", "block", "inverse_block", "from_start"]


def pick_order(
    policy: PickPolicy, reasons: Sequence[Reason], lengths: Sequence[int], least: int, random: np.random.Generator
) -> list[int]:
    """Indices of the finished paths that may be cut back, first to last; ``least``: tokens ``boxed_ge_window`` asks."""
    everything = range(len(reasons))
    if policy == "finished_first":
        return _gumbel_order([float(reason) for reason in reasons], random)
    if policy == "longer_first":
        return _gumbel_order([float(length) for length in lengths], random)
    if policy == "finished_first_strict":
        return sorted(everything, key=lambda index: reasons[index])
    allowed = {
        "random_all": lambda index: True,
        "soft_boxed_and_eos": lambda index: reasons[index] in (Reason.ANSWER, Reason.EOS),
        "boxed_ge_window": lambda index: reasons[index] is Reason.ANSWER and lengths[index] >= least,
    }[policy]
    picked = [index for index in everything if allowed(index)]
    random.shuffle(picked)
    return picked


def cut_point(
    policy: CutPolicy,
    logp: Logps,
    *,
    window: int,
    most_windows: int,
    block: int,
    segment: int,
    depth: int,
    random: np.random.Generator,
) -> int:
    """How many tokens of a path are kept. ``logp``: its log-probs, (T,); ``most_windows`` 0 sets no bound."""
    length = len(logp)
    if length < window or policy == "from_start":
        return 0
    if policy == "random":
        windows = -(-length // window)
        back = int(random.integers(1, min(most_windows or windows, windows) + 1))
        kept = (windows - back) * window
    elif policy == "min_logprob_token":
        kept = int(np.argmin(logp))
    else:
        means = [float(logp[at : at + block].mean()) for at in range(0, length, block)]
        x = np.array(means) * (1 if policy == "inverse_block" else -1)
        weight = np.exp(x - x.max())
        kept = int(random.choice(len(means), p=weight / weight.sum())) * block
    return segment * (depth - 1) if -(-kept // segment) >= depth else kept


def _gumbel_order(weights: Sequence[float], random: np.random.Generator) -> list[int]:
    """A random order in which each next index is drawn in proportion to its weight."""
    score = np.log(np.asarray(weights)) + random.gumbel(size=len(weights))
    return np.argsort(-score, kind="stable").tolist()
