"""Who reads what in one decode step: segments of keys, cut into items of work, and the parts each query gets back.

A segment is a run of tokens on the pages of the cache that some queries all see: a prompt that siblings share, an inner
node of a tree, or the tokens of one sequence alone. A query's keys are the union of its segments.

    segments   tokens x queries                       (given)
    items      chunk of tokens x up to Q queries      one program per item and KV head reads the keys once
    parts      one per item and query of it           (o, lse) over the item's keys
    merge      the parts of each query                by a list per query

Built on the host in NumPy once per step, for all layers. Items with few and with many rows go into launches of their
own, because the height of a program's tile is fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

I64 = NDArray[np.int64]

_ROWS = 128
"""Rows (queries x heads that share a KV head) of the highest tile."""
_FEW = 16
"""Rows of the lowest tile: less is not possible for a matrix product in Triton."""
_CHUNKS = (128, 1024)
"""Fewest and most tokens of an item, if the plan may choose: a part costs a row of output in float32."""
_PROGRAMS = 1024
"""Programs that keep a large GPU busy: some eight for each of its 132 processors."""

# Shapes: S queries, G segments, I items, E parts


@dataclass(frozen=True, slots=True)
class Segments:
    """Runs of tokens and who sees them; lists of segment g lie from ``..._ptr[g]`` to ``..._ptr[g + 1]``."""

    start_G: I64
    """First token, counted over the segment's pages as if these lay one after the other."""
    stop_G: I64
    page_ptr: I64
    pages: I64
    query_ptr: I64
    queries: I64
    """Rows of the query tensor."""

    @classmethod
    def of(cls, runs: Iterable[tuple[Sequence[int], int, int, Sequence[int]]]) -> Segments:
        """From ``(pages, start, stop, queries)`` of each segment."""
        listed = list(runs)
        pages, queries = ([np.asarray(run[place], np.int64) for run in listed] for place in (0, 3))
        return cls(
            start_G=np.array([run[1] for run in listed], np.int64),
            stop_G=np.array([run[2] for run in listed], np.int64),
            page_ptr=_pointers([len(x) for x in pages]),
            pages=np.concatenate([np.empty(0, np.int64), *pages]),
            query_ptr=_pointers([len(x) for x in queries]),
            queries=np.concatenate([np.empty(0, np.int64), *queries]),
        )

    @property
    def read(self) -> int:
        """Tokens of all segments, each counted once."""
        return int((self.stop_G - self.start_G).sum())

    @property
    def seen(self) -> int:
        """Tokens that would be read if every query read its own copy."""
        return int(((self.stop_G - self.start_G) * np.diff(self.query_ptr)).sum())


@dataclass(frozen=True, slots=True)
class Launch:
    """Items of one tile height."""

    most: int
    """Queries of the item that has most."""
    items_I5: Tensor
    """Per item: where its pages begin in ``pages``, first token, last token + 1, first part, queries."""


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """Index tensors of one step, int32, on the device of the queries."""

    segments: Segments
    count: int
    """Queries."""
    page_size: int
    pages: Tensor
    part_query_E: Tensor
    """Query of each part."""
    merge_ptr: Tensor
    """Where each query's list in ``merge_parts`` begins, (S + 1,)."""
    merge_parts: Tensor
    launches: tuple[Launch, ...]


def plan_decode(
    segments: Segments, count: int, page_size: int, *, heads: int, kv_heads: int, chunk: int | None = None,
    device: torch.device | str = "cpu",
) -> DecodePlan:  # fmt: skip
    """The plan of one step.

    Args:
        segments: in any order, empty ones too. The segments of a query must not overlap.
        count: rows of the query tensor. A query without keys gets o = 0 and lse = -inf.
        page_size: tokens of a page of the cache.
        heads: query heads. kv_heads: those of keys and values.
        chunk: tokens of an item; None takes as many as keep a GPU busy.
        device: of the tensors that will be attended to.

    Raises:
        ValueError: a segment reaches beyond its pages, or names a query that there is not.
    """
    _check(segments, count, page_size)
    group = heads // kv_heads
    if chunk is None:
        wanted = segments.read * kv_heads // _PROGRAMS
        chunk = min(max(1 << max(wanted, 1).bit_length(), _CHUNKS[0]), _CHUNKS[1])
    items_I5, part_query_E = _items(segments, chunk, max(1, _ROWS // group))
    few_I = items_I5[:, 4] * group <= _FEW
    launches = []
    for items in (items_I5[~few_I], items_I5[few_I]):
        if len(items):
            # Long items first: what starts last is then short.
            order = np.argsort(items[:, 1] - items[:, 2], kind="stable")
            launches.append(Launch(int(items[:, 4].max()), _tensor(items[order], device)))
    return DecodePlan(
        segments=segments,
        count=count,
        page_size=page_size,
        pages=_tensor(segments.pages, device),
        part_query_E=_tensor(part_query_E, device),
        merge_ptr=_tensor(_pointers(np.bincount(part_query_E, minlength=count)), device),
        merge_parts=_tensor(np.argsort(part_query_E, kind="stable"), device),
        launches=tuple(launches),
    )


def _items(segments: Segments, chunk: int, most: int) -> tuple[I64, I64]:
    """Items (I, 5) as in ``Launch``, and the query of each part (E,)."""
    sharing_G = np.diff(segments.query_ptr)
    blocks_G = -(-sharing_G // most)
    items_G = -(-(segments.stop_G - segments.start_G) // chunk) * blocks_G
    segment_I = np.repeat(np.arange(len(items_G)), items_G)
    piece_I, block_I = np.divmod(_within(items_G), np.maximum(blocks_G, 1)[segment_I])
    start_I = segments.start_G[segment_I] + piece_I * chunk
    stop_I = np.minimum(start_I + chunk, segments.stop_G[segment_I])
    queries_I = np.minimum(most, sharing_G[segment_I] - block_I * most)
    first_query_I = segments.query_ptr[segment_I] + block_I * most
    part_query_E = segments.queries[np.repeat(first_query_I, queries_I) + _within(queries_I)]
    columns = (segments.page_ptr[segment_I], start_I, stop_I, _pointers(queries_I)[:-1], queries_I)
    return np.stack(columns, 1), part_query_E


def _check(segments: Segments, count: int, page_size: int) -> None:
    room_G = np.diff(segments.page_ptr) * page_size
    wrong = np.flatnonzero((segments.start_G < 0) | (segments.stop_G < segments.start_G) | (segments.stop_G > room_G))
    if len(wrong):
        g = int(wrong[0])
        raise ValueError(
            f"segment {g} runs from token {segments.start_G[g]} to {segments.stop_G[g]}, but its pages hold "
            f"{room_G[g]}; give it more pages of {page_size} tokens, or a shorter run"
        )
    if len(segments.queries) and not 0 <= segments.queries.min() <= segments.queries.max() < count:
        raise ValueError(
            f"segments name queries {segments.queries.min()} to {segments.queries.max()}, but there are {count}"
        )


def _within(counts: I64) -> I64:
    """0, 1, ... up to each count, one after the other."""
    return np.arange(int(counts.sum())) - np.repeat(_pointers(counts)[:-1], counts)


def _pointers(counts: Sequence[int] | I64) -> I64:
    return np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))]).astype(np.int64)


def _tensor(values: I64, device: torch.device | str) -> Tensor:
    # Pinned memory would be quicker only for arrays much larger than these.
    return torch.from_numpy(np.ascontiguousarray(values, np.int32)).to(device, non_blocking=True)
