"""Rows or trees? Whichever the update's forward passes are expected to be faster with.

    cost = tokens * (per token) + scored tokens * (head) + pairs * (attention) + calls * (start of a kernel)

A layer's matrices see every token of the layout, the head every token in the loss, attention every pair of a query and
a key it sees. Rows also pay for the tokens they share and for their padding; trees pay for more and smaller attention
calls. A tree without a fork is trained as a row both ways, and costs the same both ways. ``gain`` is the rows' cost
over the trees', and trees are taken if it is at least ``LEAST_GAIN``. What a call costs in FLOPs, and how much slower
masked pairs are, was measured on a CPU and is assumed for a GPU; ``benchmarks/packed_step.py`` sweeps over shapes on a
CPU and holds the choice to the faster side. No clock is asked. All ranks choose alike, and as one rank with all their
groups does: the sums are over the generation's groups on all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...eval.model_spec import ModelSpec
from ..packed import PackedBatch
from ..settings import Packing

Lengths = NDArray[np.int64]
LEAST_GAIN = 1.03
"""So that rows are no slower than 0.97 times where they are taken, as far as the estimate holds (to some 7 %)."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a layout makes a model do; add those of groups and of ranks."""

    tokens: int = 0
    padding: int = 0
    scored: int = 0
    """Tokens in the loss."""
    pairs: int = 0
    """A query and a key it sees, those of the padding included."""
    calls: float = 0
    """Of attention, in a layer."""
    tree_pairs: int = 0
    """Of the pairs, those in trees that fork."""

    def __add__(self, other: Work) -> Work:
        return Work(
            self.tokens + other.tokens,
            self.padding + other.padding,
            self.scored + other.scored,
            self.pairs + other.pairs,
            self.calls + other.calls,
            self.tree_pairs + other.tree_pairs,
        )


@dataclass(frozen=True, slots=True)
class Price:
    """What each kind of work costs, in FLOPs of a forward pass."""

    token: float
    scored: float
    pair: float
    tree_pair: float
    """A pair in a packed tree: some are masked, and computed all the same."""
    call: float
    unknown: str = ""
    """Why the model's size is unknown, so that tokens alone count."""

    @classmethod
    def of(cls, config: Any, device: str) -> Price:
        """For a model, by its config."""
        try:
            spec = ModelSpec.from_config(config)
        except ConfigError as error:
            return cls(token=1.0, scored=0.0, pair=0.0, tree_pair=0.0, call=0.0, unknown=str(error))
        slower, call = TREE_COSTS.get(device, TREE_COSTS["cuda"])
        return cls(
            token=spec.linear_flops,
            scored=spec.head_flops,
            pair=spec.attention_flops,
            tree_pair=slower * spec.attention_flops,
            call=call * spec.layers,
        )


TREE_COSTS = {"cpu": (1.5, 1.4e7), "cuda": (1.5, 0.0)}
"""By device: how much slower a pair is in a tree, and FLOPs done in the time in which one attention call starts.
Measured on a CPU, assumed for a GPU."""
UNIT = 128
"""Tokens of a call in a tree; a power of two, so that sums of calls have no rounding."""
NOTHING = "no answer has an advantage"
"""The reason where nothing is trained."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which way a generation's updates go, and why."""

    tree: bool
    reason: str
    rows: Work
    trees: Work
    gain: float
    """Expected: time of the rows over that of the trees."""


def choose(packing: Packing, why_not: str | None, rows: Work, trees: Work, price: Price) -> Choice:
    """``why_not``: why the objective or the model leaves no choice; ``rows`` and ``trees``: of the whole generation."""
    gain = _cost(rows, price) / max(_cost(trees, price), 1e-9) if trees.tokens else 1.0
    shared = f"{trees.tokens:,} tokens in place of {rows.tokens:,}, expected to be {gain:.2f} times as fast"
    if price.unknown:
        shared += f" by tokens alone ({price.unknown})"
    if not rows.tokens:
        return Choice(False, NOTHING, rows, trees, gain)
    if packing == "rows":
        return Choice(False, "optim.packing is rows", rows, trees, gain)
    if why_not is not None:
        return Choice(False, why_not, rows, trees, gain)
    if packing == "tree":
        return Choice(True, f"optim.packing is tree: {shared}", rows, trees, gain)
    if gain < LEAST_GAIN:
        return Choice(False, f"trees don't pay below {LEAST_GAIN} times the speed: {shared}", rows, trees, gain)
    return Choice(True, shared, rows, trees, gain)


def work_of_rows(length_B: Lengths, scored: int, micro_batch_tokens: int) -> Work:
    """Rows of these lengths, padded in packs as ``to_packs`` makes them."""
    padded = pairs = 0
    longest_first = np.sort(length_B)[::-1]
    while len(longest_first):
        width = int(longest_first[0])
        rows = min(len(longest_first), max(1, micro_batch_tokens // width))
        padded += rows * width
        pairs += rows * width * (width + 1) // 2
        longest_first = longest_first[rows:]
    tokens = int(length_B.sum())
    return Work(tokens, padded - tokens, scored, pairs, 0)


def work_of_trees(packs: Sequence[PackedBatch]) -> Work:
    """Each token of a tree once."""
    pairs = sum(int(pack.pos.sum()) + len(pack) for pack in packs)
    return _in_trees(sum(map(len, packs)), sum(int(pack.scored.sum()) for pack in packs), pairs)


def forked_and_paths(packs: Sequence[PackedBatch]) -> tuple[Work, Lengths]:
    """The work of the trees that fork, and the tokens of each other one, (B,): these are rows, so their padding counts.

    The scored tokens are those of all.
    """
    spans = [(pack, start, stop) for pack in packs for start, stop in pack.trees]
    paths = [stop - start for pack, start, stop in spans if int(pack.pos[stop - 1]) + 1 == stop - start]
    length_B, whole = np.array(paths, np.int64), work_of_trees(packs)
    pairs = whole.pairs - int((length_B * (length_B + 1) // 2).sum())
    return _in_trees(whole.tokens - int(length_B.sum()), whole.scored, pairs), length_B


def _in_trees(tokens: int, scored: int, pairs: int) -> Work:
    # Calls in fractions: whole ones of each pack would depend on how groups are spread over packs and ranks.
    return Work(tokens, 0, scored, pairs, calls=tokens / UNIT, tree_pairs=pairs)


def _cost(work: Work, price: Price) -> float:
    matrices = (work.tokens + work.padding) * price.token
    attention = (work.pairs - work.tree_pairs) * price.pair + work.tree_pairs * price.tree_pair
    return matrices + work.scored * price.scored + attention + work.calls * price.call
