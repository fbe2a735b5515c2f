"""Segments as plain data for Arrow, and back: what a file of rollouts holds of each group, besides its leaves.

Exact and small: log-probs are kept bit by bit where there are any, and nothing is written where there are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from .records import Cost, Group, Kind, Origin, Segment, Stop

COSTS = ("decoded", "prefilled", "cached", "kv_read")
"""The counters of ``Cost``, each a column of its own."""
SEGMENTS = pa.list_(
    pa.struct(
        {
            "parent": pa.int32(),
            "parent_off": pa.int32(),
            "kind": pa.string(),
            "ids": pa.list_(pa.int32()),
            "logp": pa.list_(pa.float32()),
            "stop": pa.string(),
            "origin": pa.list_(pa.struct({"segment": pa.int32(), "start": pa.int32(), "stop": pa.int32()})),
            "policy_version": pa.int64(),
            "earlier": pa.list_(pa.struct({"version": pa.int64(), "tokens": pa.int32()})),
            **dict.fromkeys(COSTS, pa.int64()),
            "text": pa.list_(pa.string()),
        }
    )
)
"""Arrow type of a group's segments. ``logp`` is empty unless the segment is sampled; ``text`` is that of each stretch
(``branches.py``), since a tokenizer may not be at hand when the file is read."""


def dump_segments(group: Group, texts: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """The group's segments as values of ``SEGMENTS``; ``texts``: by segment, the text of each of its stretches."""
    return [_dump(segment, text) for segment, text in zip(group.segments, texts, strict=True)]


def load_segments(values: Sequence[Mapping[str, Any]]) -> tuple[Segment, ...]:
    """The segments that ``dump_segments`` was given."""
    return tuple(_load(index, value) for index, value in enumerate(values))


def _dump(segment: Segment, text: Sequence[str]) -> dict[str, Any]:
    sampled = segment.kind is Kind.SAMPLED
    return {
        "parent": segment.parent,
        "parent_off": segment.parent_off,
        "kind": str(segment.kind),
        "ids": segment.ids,
        "logp": segment.logp if sampled else np.empty(0, np.float32),
        "stop": None if segment.stop is None else str(segment.stop),
        "origin": [{"segment": o.segment, "start": o.start, "stop": o.stop} for o in segment.origin],
        "policy_version": segment.policy_version,
        "earlier": [{"version": version, "tokens": tokens} for version, tokens in segment.earlier],
        **{name: getattr(segment.cost, name) for name in COSTS},
        "text": list(text),
    }


def _load(index: int, value: Mapping[str, Any]) -> Segment:
    ids, kind = np.array(value["ids"], np.int32), Kind(value["kind"])
    none = np.full(len(ids), np.nan, np.float32)
    return Segment(
        id=index,
        parent=value["parent"],
        parent_off=value["parent_off"],
        kind=kind,
        ids=ids,
        logp=np.array(value["logp"], np.float32) if kind is Kind.SAMPLED else none,
        stop=None if value["stop"] is None else Stop(value["stop"]),
        origin=tuple(Origin(**origin) for origin in value["origin"]),
        policy_version=value["policy_version"],
        cost=Cost(**{name: value[name] for name in COSTS}),
        earlier=tuple((stretch["version"], stretch["tokens"]) for stretch in value["earlier"]),
    )
