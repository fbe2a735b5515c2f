"""Which token sees which in a packed sequence of trees, and the tables that attention kernels read it from.

Tokens stand in depth-first pre-order, so that every subtree is an interval, and one integer per token holds the mask:

    query i sees key j   <=>   j <= i  and  i < sub_end[j]

Trees follow one another (several prompts in a pack); a row of its own is a tree of a single path. Plain numpy.

Shapes: N tokens, M nodes, Q tiles of queries, K tiles of keys, P pairs of tiles that meet
Source: FlashMask (arXiv 2410.01359) with its lower-triangle start vector alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError

Bool = NDArray[np.bool_]
F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

SHORTEST_PART = 32
"""Query tiles: below that, adding parts up costs more than an even share of the work gains."""


@dataclass(frozen=True, eq=False)
class Nodes:
    """Longest runs of tokens without a branch, in pre-order; all arrays are (M,)."""

    start: I64
    stop: I64
    parent: I64
    """Number of the parent's node; -1 for a root."""
    end: I64
    """Index just past the last token of the node's subtree: its strict descendants are the tokens [stop, end)."""
    depth_tok: I64
    """Tokens on the path above the node."""
    level: I64
    """Nodes on the path above the node."""

    def __len__(self) -> int:
        return len(self.start)

    def path(self, node: int) -> list[int]:
        """Nodes from the root to ``node``, itself included."""
        path = [node]
        while self.parent[path[-1]] >= 0:
            path.append(int(self.parent[path[-1]]))
        return path[::-1]


@dataclass(frozen=True, eq=False)
class Tiles:
    """Where tiles of ``block_q`` queries and ``block_k`` keys meet.

    By query tile, a list in CSR form: the key tiles of query tile t are ``key_tile[start[t]:stop[t]]``, and up to
    ``full[t]`` no element of them is masked. By key tile, four numbers: query tiles [first, last) meet it, and no
    element is masked in [full_first, full_last). One range is enough, because the key with the largest ``sub_end``
    of a tile is seen by all queries up to there.
    """

    block_q: int
    block_k: int
    start: I32
    full: I32
    stop: I32
    """(Q,)"""
    key_tile: I32
    """(P,)"""
    heavy_first: I32
    """Query tiles by the number of key tiles, most first (Q,): the last to start then finish early."""
    ranges: I32
    """first, full_first, full_last, last of each key tile (K, 4)."""

    def work(self, wanted: int) -> KeyWork:
        """The key tiles as about ``wanted`` items of like size: long ranges are cut into parts."""
        first, full_first, full_last, last = self.ranges.astype(np.int64).T
        length = last - first
        longest = max(SHORTEST_PART, -(-int(length.sum()) // max(wanted, 1)))
        parts = -(-length // longest)
        tile = np.repeat(np.arange(len(parts)), parts)
        part = np.arange(len(tile)) - np.repeat(np.cumsum(parts) - parts, parts)
        begin = first[tile] + length[tile] * part // parts[tile]
        end = first[tile] + length[tile] * (part + 1) // parts[tile]
        full_begin = np.clip(full_first[tile], begin, end)
        full_end = np.clip(full_last[tile], full_begin, end)
        cut = parts > 1
        slots = np.cumsum(np.where(cut, parts, 0))
        slot = np.where(cut[tile], (slots - parts)[tile] + part, -1)
        items = np.stack([tile, begin, full_begin, full_end, end, slot], axis=1)
        sums = np.stack([np.flatnonzero(cut), (slots - parts)[cut], slots[cut]], axis=1)
        heavy_first = np.argsort(begin - end, kind="stable")
        return KeyWork(_narrow(items[heavy_first]), _narrow(sums), int(slots[-1]) if len(slots) else 0)


@dataclass(frozen=True, eq=False)
class KeyWork:
    """Who sums up the gradients of which keys."""

    items: I32
    """Key tile, first, full_first, full_last, last as in :class:`Tiles`, and the slot of the part's own sum or -1 if
    the item is the whole tile; the longest first (I, 6)."""
    sums: I32
    """Key tile in parts, first slot, last slot + 1 (S, 3)."""
    slots: int


@dataclass(frozen=True, slots=True)
class Unit:
    """Tokens [start, stop) that follow the same ``depth`` tokens: a piece of a node, or whole subtrees side by side."""

    start: int
    stop: int
    depth: int
    block: int
    """Which mask its tokens have among themselves; pieces of one size share one."""


@dataclass(frozen=True, eq=False)
class TreeLayout:
    """One packed sequence; arrays are (N,). Make it by :meth:`of`, :meth:`of_nodes` or :meth:`of_rows`."""

    pos: I64
    """Position id; attention doesn't read it."""
    sub_end: I64
    """Index just past the token's subtree."""
    pred: I64
    """The token before it on its path; -1 for the first token of a tree."""

    @classmethod
    def of(cls, pos_N: ArrayLike, sub_end_N: ArrayLike, pred_N: ArrayLike) -> TreeLayout:
        """A layout from its arrays.

        Raises:
            DataError: the tokens that ``sub_end`` lets a query see are not its path by ``pred``.
        """
        pos, sub_end, pred = (np.ascontiguousarray(array, np.int64) for array in (pos_N, sub_end_N, pred_N))
        if not pos.shape == sub_end.shape == pred.shape or pos.ndim != 1:
            raise DataError(
                f"pos, sub_end and pred have shapes {pos.shape}, {sub_end.shape} and {pred.shape}; pass three arrays "
                "with one number per token"
            )
        layout = cls(pos, sub_end, pred)
        layout._refuse_what_is_no_tree()
        return layout

    @classmethod
    def of_nodes(cls, parent_M: Sequence[int], length_M: Sequence[int]) -> TreeLayout:
        """A layout from the parent (-1 for a root) and the number of tokens of each node, in pre-order."""
        parent, length = np.asarray(parent_M, np.int64), np.asarray(length_M, np.int64)
        start = np.concatenate([[0], np.cumsum(length)])
        end, last, depth = np.arange(1, len(parent) + 1), start[1:] - 1, np.zeros(len(parent), np.int64)
        for node in range(len(parent) - 1, 0, -1):
            if parent[node] >= 0:
                end[parent[node]] = max(end[parent[node]], end[node])
        pos, pred = np.arange(start[-1]), np.arange(-1, start[-1] - 1)
        for node, above in enumerate(parent.tolist()):
            depth[node] = depth[above] + length[above] if above >= 0 else 0
            before = last[above] if above >= 0 else -1
            if length[node]:
                pred[start[node]] = before
                pos[start[node] : start[node + 1]] += depth[node] - start[node]
            else:
                last[node] = before
        return cls.of(pos, np.repeat(start[end], length), pred)

    @classmethod
    def of_rows(cls, lengths: Sequence[int]) -> TreeLayout:
        """Rows that share nothing."""
        return cls.of_nodes([-1] * len(lengths), lengths)

    def __len__(self) -> int:
        return len(self.sub_end)

    @cached_property
    def depth(self) -> I64:
        """Tokens on the path above each token, (N,)."""
        opened = np.arange(1, len(self) + 1)
        closed = np.cumsum(np.bincount(self.sub_end, minlength=len(self) + 1)[: len(self)])
        return opened - closed - 1

    @cached_property
    def pairs(self) -> int:
        """Pairs of a query and a key it sees: the work of attention."""
        return int(self.depth.sum()) + len(self)

    @cached_property
    def nodes(self) -> Nodes:
        children = np.bincount(self.pred[self.pred >= 0], minlength=len(self))
        begins = np.ones(len(self), np.bool_)
        begins[1:] = (self.pred[1:] != np.arange(len(self) - 1)) | (children[:-1] > 1)
        start = np.flatnonzero(begins)
        node_N = np.cumsum(begins) - 1
        above = self.pred[start]
        parent = np.where(above >= 0, node_N[above] if len(self) else above, -1)
        level = np.zeros(len(start), np.int64)
        for node, over in enumerate(parent.tolist()):
            level[node] = level[over] + 1 if over >= 0 else 0
        stop = np.append(start[1:], len(self))[: len(start)]
        return Nodes(start, stop, parent, self.sub_end[start], self.depth[start], level)

    def mask(self) -> Bool:
        """(N, N), True where the query (row) sees the key (column)."""
        index = np.arange(len(self))
        return (index[None, :] <= index[:, None]) & (index[:, None] < self.sub_end[None, :])

    def tiles(self, block_q: int, block_k: int) -> Tiles:
        """Tables for tiles of a size, made once."""
        made = self._tiles.get((block_q, block_k))
        if made is None:
            made = self._tiles[block_q, block_k] = _tiles(self.sub_end, block_q, block_k)
        return made

    def units(self, limit: int) -> list[Unit]:
        """The sequence cut into units, made once.

        A subtree of at most ``limit`` tokens is one unit, and small subtrees side by side share one. A node with a
        larger subtree is cut into pieces of at most twice as many tokens: of a piece, less is masked.
        """
        if limit not in self._units:
            self._units[limit] = _units(self.nodes, self.pred, limit)
        return self._units[limit]

    def unit_masks(self, limit: int) -> list[F32]:
        """By ``Unit.block``: 0 where a token of a unit (row) sees another (column), -inf elsewhere; made once."""
        made = self._unit_masks.setdefault(limit, [])
        if not made:
            first = {unit.block: unit for unit in reversed(self.units(limit))}
            made += [self._within(first[block]) for block in range(len(first))]
        return made

    def _within(self, unit: Unit) -> F32:
        index = np.arange(unit.start, unit.stop)
        seen = (index[None, :] <= index[:, None]) & (index[:, None] < self.sub_end[None, unit.start : unit.stop])
        return np.where(seen, np.float32(0), np.float32(-np.inf))

    @cached_property
    def _units(self) -> dict[int, list[Unit]]:
        return {}

    @cached_property
    def _unit_masks(self) -> dict[int, list[F32]]:
        return {}

    @cached_property
    def _tiles(self) -> dict[tuple[int, int], Tiles]:
        return {}

    def _refuse_what_is_no_tree(self) -> None:
        """What a token sees holds its path, if the path is nested; they are the same, if they are equally long."""
        index, inner = np.arange(len(self)), self.pred >= 0
        range_ok = (self.pred >= -1) & (self.pred < index) & (self.sub_end > index) & (self.sub_end <= len(self))
        _refuse(~range_ok, "pred or sub_end out of range", self)
        above = self.pred[inner]
        nested = np.ones(len(self), np.bool_)
        nested[inner] = (self.sub_end[above] > index[inner]) & (self.sub_end[above] >= self.sub_end[inner])
        _refuse(~nested, "a subtree that reaches beyond that of the token before it", self)
        want = np.zeros(len(self), np.int64)
        want[inner] = self.depth[above] + 1
        _refuse(self.depth != want, "more or fewer tokens in sight than on its path", self)


def _units(nodes: Nodes, pred: I64, limit: int) -> list[Unit]:
    spans: list[tuple[int, int, int, bool]] = []  # start, stop, depth, whether it is a piece of a node
    covered, siblings_of = 0, -2  # of the last unit, if it is made of whole subtrees: the token before them
    for start, stop, end, depth in np.stack([nodes.start, nodes.stop, nodes.end, nodes.depth_tok], axis=1).tolist():
        if start < covered:
            continue
        if end - start > limit:
            pieces = range(start, stop, 2 * limit)
            spans += [(at, min(at + 2 * limit, stop), depth + at - start, True) for at in pieces]
            covered, siblings_of = stop, -2
            continue
        # Two trees have no path in common, but nothing above either, so they may share a unit too.
        if pred[start] == siblings_of and end - spans[-1][0] <= limit:
            spans[-1] = spans[-1][0], end, depth, False
        else:
            spans.append((start, end, depth, False))
        covered, siblings_of = end, int(pred[start])
    blocks: dict[tuple[bool, int], int] = {}
    return [
        Unit(start, stop, depth, blocks.setdefault((piece, stop - start if piece else start), len(blocks)))
        for start, stop, depth, piece in spans
    ]


def _refuse(wrong_N: Bool, what: str, layout: TreeLayout) -> None:
    if wrong_N.any():
        token = int(np.argmax(wrong_N))
        raise DataError(
            f"token {token} of {len(layout)} has {what} (pred {layout.pred[token]}, sub_end {layout.sub_end[token]}); "
            "put the tokens in depth-first order, and in sub_end the index just past each token's subtree"
        )


def _tiles(sub_end: I64, block_q: int, block_k: int) -> Tiles:
    tokens = len(sub_end)
    first_key = np.arange(0, tokens, block_k)
    key_tiles, query_tiles = len(first_key), -(-tokens // block_q)
    if not tokens:
        none = np.zeros(0, np.int32)
        return Tiles(block_q, block_k, none, none, none, none, none, np.zeros((0, 4), np.int32))
    # Past the last token, where the last tile is not filled: the keys missing there have to be masked.
    last_key = first_key + block_k - 1
    furthest = np.maximum.reduceat(sub_end, first_key)
    nearest = np.minimum.reduceat(sub_end, first_key)

    # Full: the tile's first query comes at or after the last key, its last query before the nearest end.
    first, last = first_key // block_q, (furthest - 1) // block_q + 1
    whole_tiles = np.where(nearest == tokens, query_tiles, nearest // block_q)
    full_first = np.clip(-(-last_key // block_q), first, last)
    full_last = np.clip(whole_tiles, full_first, last)
    ranges = np.stack([first, full_first, full_last, last], axis=1)

    key_tile = np.repeat(np.arange(key_tiles), last - first)
    query_tile = np.arange(len(key_tile)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
    query_tile += np.repeat(first, last - first)
    partial = (query_tile < full_first[key_tile]) | (query_tile >= full_last[key_tile])
    order = np.argsort(query_tile * 2 + partial, kind="stable")
    count = np.bincount(query_tile, minlength=query_tiles)
    stop = np.cumsum(count)
    start = stop - count
    full = start + np.bincount(query_tile[~partial], minlength=query_tiles)

    return Tiles(
        block_q, block_k, _narrow(start), _narrow(full), _narrow(stop), _narrow(key_tile[order]),
        _narrow(np.argsort(-count, kind="stable")), _narrow(ranges),
    )  # fmt: skip


def _narrow(array: NDArray[np.integer]) -> I32:
    return np.ascontiguousarray(array, np.int32)
