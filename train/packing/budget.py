"""Tries into packs that fit a micro-batch: several small ones together, one that is too large in pieces.

A trie is cut between leaves. A piece holds the paths to some leaves that follow one another, so what lies above a cut
is there once more; its weights are zero in every piece but the first, and nothing is counted twice. With L_i tokens on
the path to leaf i, and c_i of them on that to leaf i - 1 too:

    tokens of leaves i to j    L_i + sum_{k = i + 1 .. j} (L_k - c_k)        at most the budget
    all pieces                 tokens of the trie + sum of c_i over the cuts

Of all ways to cut, the one that repeats least is taken, by dynamic programming over leaves. That is at the highest
forks, wherever the pieces between them fit. A single path can't be cut: if it is longer, it gets a pack of its own.

Shapes: N tokens of a trie, L leaves
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from ..packed import I64, PackedBatch

_WEIGHTS = ("w_pos", "w_neg", "w_kl", "w_ent", "w_nll")


def to_tree_packs(tries: Sequence[PackedBatch], micro_batch_tokens: int) -> list[PackedBatch]:
    """Packs of whole trees or pieces of them, of at most ``micro_batch_tokens`` tokens, the largest first.

    Each goes into the first pack with room. A path that is longer alone gets a pack of its own. Packs without a fork
    are scored as rows, so their padding counts.
    """
    pieces = [piece for trie in tries for tree in _trees(trie) for piece in cut(tree, micro_batch_tokens)]
    packs: list[_Open] = []
    # Largest first: the small ones fill what is left.
    for piece in sorted(pieces, key=len, reverse=True):
        chosen = next((pack for pack in packs if pack.takes(piece, micro_batch_tokens)), None)
        if chosen is None:
            packs.append(chosen := _Open())
        chosen.add(piece)
    # A step that doesn't fit into memory fails at its start.
    return [concatenate(pack.pieces) for pack in sorted(packs, key=lambda pack: pack.area, reverse=True)]


@dataclass(slots=True)
class _Open:
    """A pack under way."""

    pieces: list[PackedBatch] = field(default_factory=list)
    tokens: int = 0
    forks: bool = False

    @property
    def area(self) -> int:
        """Tokens, padding included: without a fork it is scored as rows, padded to the longest, which came first."""
        return self.tokens if self.forks else len(self.pieces) * len(self.pieces[0])

    def takes(self, piece: PackedBatch, budget: int) -> bool:
        if self.tokens + len(piece) > budget:
            return False
        return self.forks or _forks(piece) or (len(self.pieces) + 1) * len(self.pieces[0]) <= budget

    def add(self, piece: PackedBatch) -> None:
        self.pieces.append(piece)
        self.tokens, self.forks = self.tokens + len(piece), self.forks or _forks(piece)


def _forks(tree: PackedBatch) -> bool:
    return int(tree.pos[-1]) + 1 < len(tree)


def cut(tree: PackedBatch, budget: int) -> list[PackedBatch]:
    """Pieces of a single tree of at most ``budget`` tokens, or of one path; the tree itself if it fits."""
    if len(tree) <= budget:
        return [tree]
    leaf_L = np.flatnonzero(tree.sub_end == np.arange(1, len(tree) + 1))
    cuts = _cheapest_cuts(leaf_L, tree.pos[leaf_L] + 1, budget)
    pieces = []
    for first, stop in zip(cuts, [*cuts[1:], len(leaf_L)], strict=True):
        leaf = int(leaf_L[first])
        path = np.flatnonzero(tree.sub_end[: leaf + 1] > leaf)
        chosen = np.concatenate([path, np.arange(leaf + 1, leaf_L[stop - 1] + 1)])
        before = int(leaf_L[first - 1]) if first else -1
        pieces.append(_part(tree, chosen, chosen <= before))
    return pieces


def concatenate(packs: Sequence[PackedBatch]) -> PackedBatch:
    """Several packs in one, without values (of a critic)."""
    starts = np.cumsum([0, *map(len, packs)])[:-1].tolist()
    columns = {
        field.name: np.concatenate([getattr(pack, field.name) for pack in packs])
        for field in fields(PackedBatch)
        if getattr(packs[0], field.name) is not None
    }
    shift_N = np.repeat(starts, [len(pack) for pack in packs])
    columns["sub_end"] = columns["sub_end"] + shift_N
    columns["pred"] = np.where(columns["pred"] < 0, -1, columns["pred"] + shift_N)
    return PackedBatch(**columns)


def _cheapest_cuts(leaf_L: I64, length_L: I64, budget: int) -> list[int]:
    """The leaves at which the pieces begin that together have the fewest tokens."""
    best, begin = np.zeros(len(leaf_L) + 1, np.int64), np.zeros(len(leaf_L), np.int64)
    # A piece of leaves i to j has length_L[i] tokens, and those that stand between the two leaves.
    base_L = length_L - leaf_L
    for j, leaf in enumerate(leaf_L.tolist()):
        size = base_L[: j + 1] + leaf
        fits = size <= budget
        fits[j] = True  # a path alone, however long
        total = np.where(fits, best[: j + 1] + size, np.iinfo(np.int64).max)
        begin[j] = np.argmin(total)
        best[j + 1] = total[begin[j]]
    cuts, stop = [], len(leaf_L)
    while stop:
        stop = int(begin[stop - 1])
        cuts.append(stop)
    return cuts[::-1]


def _trees(trie: PackedBatch) -> list[PackedBatch]:
    spans = trie.trees
    return [trie] if len(spans) == 1 else [_part(trie, np.arange(*span)) for span in spans]


def _part(tree: PackedBatch, chosen: I64, again: np.ndarray | None = None) -> PackedBatch:
    """Some tokens of a tree and all above them; those marked ``again`` without weights."""
    columns = {
        field.name: getattr(tree, field.name)[chosen]
        for field in fields(PackedBatch)
        if getattr(tree, field.name) is not None
    }
    index = np.full(len(tree) + 1, -1)
    index[chosen] = np.arange(len(chosen))
    columns["pred"] = index[columns["pred"]]  # the extra place at the end keeps -1 what it is
    columns["sub_end"] = np.searchsorted(chosen, columns["sub_end"])
    part = PackedBatch(**columns)
    if again is None:
        return part
    return replace(part, **{name: np.where(again, np.float32(0), getattr(part, name)) for name in _WEIGHTS})
