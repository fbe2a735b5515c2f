"""Keys and values that outlive their sequence, so that what continues it prefills only what is new.

    root ── prompt ──┬──────── answer a ─────────
                     │               └── answer c, split off late
                     └── answer b

One radix tree per rollout tree, keyed by token ids. A piece holds the KV of a stretch of tokens and hangs at an offset
of the piece it continues; pieces are never split, so a late split costs nothing. Within a piece, two children of one
offset differ in their first token, and none has the token with which the piece itself goes on.

At most ``limit`` tokens are kept. The piece used longest ago goes first, and since using a piece uses all before it,
that is always one that nothing hangs on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..records import Ids

# Shapes: H KV heads, L columns, D head width, T tokens of a piece, F numbers in the KV of one token over all layers

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, shape (H, L, D); column p holds position p."""


@dataclass(eq=False, slots=True)
class Piece:
    """The KV of some neighbouring tokens."""

    ids: Ids
    kv_TF: Tensor | None
    before: Piece | None = None
    """The piece it continues; None for a root, which holds no tokens."""
    offset: int = 0
    """Tokens of ``before`` that precede it."""
    children: dict[tuple[int, int], Piece] = field(default_factory=dict)
    """By offset and first token."""


@dataclass(frozen=True, slots=True)
class Found:
    """The longest kept beginning of a context."""

    length: int
    path: list[tuple[Piece, int]]
    """Pieces from the root on, and how many tokens of each agree."""


_NOTHING = Found(0, [])


class PrefixCache:
    """What finished sequences left behind, by tree; each tree is open until it is released."""

    def __init__(self) -> None:
        self.limit = 0
        """Most tokens kept."""
        self.tokens = 0
        """Tokens kept now."""
        self._roots: dict[int, Piece] = {}
        self._by_age: OrderedDict[Piece, None] = OrderedDict()
        self._shapes: list[tuple[int, int]] = []

    @property
    def in_use(self) -> bool:
        """Whether a tree is open."""
        return bool(self._roots)

    def open(self, tree: int) -> None:
        """Keep what is added for ``tree`` from now on."""
        if tree not in self._roots:
            self._roots[tree] = _root()

    def release(self, trees: Iterable[int]) -> None:
        """Forget these trees; unknown ones are ignored."""
        below = [self._roots.pop(tree) for tree in trees if tree in self._roots]
        while below:
            piece = below.pop()
            below += piece.children.values()
            if piece.before is not None:
                del self._by_age[piece]
                self.tokens -= len(piece.ids)

    def clear(self) -> None:
        """Forget everything kept; trees stay open."""
        self._roots = {tree: _root() for tree in self._roots}
        self._by_age.clear()
        self.tokens = 0

    def bound(self, limit: int) -> None:
        """Keep at most ``limit`` tokens from now on."""
        self.limit = limit
        self._make_room(0, [])

    def find(self, tree: int | None, ids: Ids) -> Found:
        """The longest beginning of ``ids`` that is kept for ``tree``."""
        piece = None if tree is None else self._roots.get(tree)
        if piece is None:
            return _NOTHING
        path: list[tuple[Piece, int]] = []
        length = 0
        while piece is not None:
            same = common_length(piece.ids, ids[length:])
            path.append((piece, same))
            length += same
            piece = piece.children.get((same, int(ids[length]))) if length < len(ids) else None
        self._touch(path)
        return Found(length, path)

    def read(self, found: Found, length: int) -> Layers:
        """The KV of the first ``length`` tokens of what was found; a copy or a view, not to be written."""
        pieces = [piece.kv_TF[:same] for piece, same in found.path if piece.kv_TF is not None]
        kv_TF = (torch.cat(pieces) if len(pieces) > 1 else pieces[0])[:length]
        parts = kv_TF.split([heads * width for heads, width in self._shapes], 1)
        tensors = [part.unflatten(1, shape).transpose(0, 1) for part, shape in zip(parts, self._shapes, strict=True)]
        return list(zip(tensors[::2], tensors[1::2], strict=True))

    def add(self, tree: int, ids: Ids, layers: Layers) -> None:
        """Keep the KV of ``ids``, as far as it is new and there is room; nothing for a tree that is not open."""
        found = self.find(tree, ids)
        if not found.path or found.length == len(ids):
            return
        start = found.length
        stop = start + self._make_room(len(ids) - start, found.path)
        if stop <= start:
            return
        if not self._shapes:
            self._shapes = [(part.shape[0], part.shape[2]) for pair in layers for part in pair]
        parts = [part[:, start:stop].transpose(0, 1).flatten(1) for pair in layers for part in pair]
        before, offset = found.path[-1]
        piece = Piece(ids[start:stop].copy(), torch.cat(parts, 1), before, offset)
        before.children[offset, int(ids[start])] = piece
        self.tokens += stop - start
        self._touch([*found.path, (piece, stop - start)])

    def _touch(self, path: list[tuple[Piece, int]]) -> None:
        """Make a path the youngest, what comes before always younger than what hangs on it."""
        for piece, _ in reversed(path[1:]):
            self._by_age[piece] = None
            self._by_age.move_to_end(piece)

    def _make_room(self, wanted: int, path: list[tuple[Piece, int]]) -> int:
        """Evict until ``wanted`` tokens fit, but nothing of ``path``; returns how many of them do."""
        spared = {piece for piece, _ in path}
        while self.tokens + wanted > self.limit and self._by_age:
            oldest = next(iter(self._by_age))
            if oldest in spared or oldest.before is None:
                break
            del self._by_age[oldest], oldest.before.children[oldest.offset, int(oldest.ids[0])]
            self.tokens -= len(oldest.ids)
        return min(wanted, self.limit - self.tokens)


def common_length(one: Ids, other: Ids) -> int:
    """How many tokens two sequences begin with alike."""
    length = min(len(one), len(other))
    if not length:
        return 0
    differ = one[:length] != other[:length]
    first = int(differ.argmax())
    return first if differ[first] else length


def _root() -> Piece:
    return Piece(np.empty(0, np.int32), None)
