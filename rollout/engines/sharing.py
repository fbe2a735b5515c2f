"""Which beginnings of live sequences are the same, so that a GPU may read their KV once.

    contexts of a tree, sorted        a shared run becomes a segment of its own, read from its first row

    p p p p a a x            rows 0..3:  p p p p            queries 0 1 2 3, from row 0
    p p p p a a y            rows 0..1:          a a        queries 0 1, from row 0
    p p p p b                each row:   what is left, up to the token being decoded
    p p p p c c

Tokens decide, not where the KV came from: equal contexts of one policy have equal KV up to rounding. The last token of
a context is left out, because a sequence may be about to read it (see ``prefixes.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...kernels.cascade_decode import Segments
from .prefixes import common_length
from .rows import Call

# Shapes: n live rows

LEAST_SHARED = 64
"""A shorter run is not worth a segment: each part of a query costs an output row in float32."""
LEAST_SAVED = 0.1
"""Share of the KV reads that must be saved."""

Run = tuple[int, int, list[int]]
"""First column, column after the last, rows; it is read from the first of these."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """What ``n`` rows share; it changes only when rows do."""

    runs: list[Run]
    own_n: NDArray[np.int64]
    """First column that a row shares with nobody."""

    def saves(self, position_n: NDArray[np.int64]) -> float:
        """Share of the KV reads of a step that writes column ``position_n[i]`` of row i."""
        saved = sum((stop - start) * (len(rows) - 1) for start, stop, rows in self.runs)
        return saved / max(1, int(position_n.sum()) + len(position_n))

    def segments(self, position_n: NDArray[np.int64]) -> Segments:
        """For that step; pages are rows."""
        count, shared = len(position_n), len(self.runs)
        sizes = [len(rows) for _, _, rows in self.runs] + [1] * count
        owners = [rows[0] for _, _, rows in self.runs]
        everyone = np.arange(count)
        return Segments(
            start_G=np.concatenate([np.array([run[0] for run in self.runs], np.int64), self.own_n]),
            stop_G=np.concatenate([np.array([run[1] for run in self.runs], np.int64), position_n + 1]),
            page_ptr=np.arange(shared + count + 1),
            pages=np.concatenate([np.array(owners, np.int64), everyone]),
            query_ptr=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            queries=np.concatenate([np.array([row for _, _, rows in self.runs for row in rows], np.int64), everyone]),
        )


def sharing_of(calls: Sequence[Call], least: int = LEAST_SHARED) -> Sharing:
    """From the call in each row."""
    own_n = np.zeros(len(calls), np.int64)
    trees: dict[object, dict[bytes, list[int]]] = {}
    for row, call in enumerate(calls):
        # Requests without a tree can share a context as a whole only.
        tree = call.key if call.request.tree is None else call.request.tree
        trees.setdefault(tree, {}).setdefault(call.key, []).append(row)
    runs: list[Run] = []
    for rows_of in trees.values():
        # Neighbours in the order of their tokens begin with most alike; big-endian bytes sort as tokens do.
        rows = sorted(rows_of.values(), key=lambda of: calls[of[0]].request.context.astype(">i4").tobytes())
        ids = [calls[of[0]].request.context[:-1] for of in rows]
        common = [common_length(a, b) for a, b in zip(ids, ids[1:], strict=False)]
        _split(rows, [len(x) for x in ids], common, 0, least, runs, own_n)
    return Sharing(runs, own_n)


def _split(
    rows: list[list[int]], lengths: list[int], common: list[int], start: int, least: int, runs: list[Run],
    own_n: NDArray[np.int64],
) -> None:  # fmt: skip
    """Runs of contexts that agree up to ``start``; ``common[i]`` is what contexts i and i + 1 begin with alike."""
    everyone = [row for of in rows for row in of]
    if len(everyone) < 2:
        own_n[everyone] = start
        return
    stop = min([*lengths, *common])
    if stop - start >= least:
        runs.append((start, stop, everyone))
        start = stop
    if len(rows) == 1:
        own_n[everyone] = start
        return
    # Contexts part where they agree no further; one that ends here stands alone, and so do its rows.
    edges = [0, *(i + 1 for i, length in enumerate(common) if length == stop), len(rows)]
    for first, last in zip(edges, edges[1:], strict=False):
        _split(rows[first:last], lengths[first:last], common[first : last - 1], start, least, runs, own_n)
