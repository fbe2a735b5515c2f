"""Groups that wait for the next generation, in memory and in a checkpoint.

A parked group has calls that go on; a finished one has none and waits to be trained. The file keeps both to the bit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .driver import CallSpec
from .engines.protocol import Sampling
from .records import Group, Leaf, Rollout, Segment, Stop
from .saved import SEGMENTS, dump_segments, load_segments

SCHEMA = pa.schema(
    {
        "group_id": pa.int64(),
        "problem_id": pa.string(),
        "step": pa.int64(),
        "segments": SEGMENTS,
        "begun": SEGMENTS,
        "calls": pa.string(),
        "leaves": pa.string(),
        "rollouts": pa.string(),
    }
)
"""One row per group. ``begun`` holds what each call has sampled; calls, leaves and rollouts are JSON."""


@dataclass(frozen=True, slots=True)
class Parked:
    """A group and its calls that are not done."""

    group: Group
    """The segments of its calls are open: empty, and without a ``stop``."""
    calls: tuple[tuple[CallSpec, Segment], ...] = ()
    """Each call and what it has sampled so far, by segment; without any the group is finished."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to decode."""
        return not self.calls


def write_parked(path: Path, parked: Sequence[Parked]) -> None:
    """Write groups to a new file."""
    pq.write_table(pa.Table.from_pylist([_dump(one) for one in parked], schema=SCHEMA), path)


def read_parked(path: Path) -> list[Parked]:
    """The groups that ``write_parked`` was given."""
    return [_load(row) for row in pq.read_table(path, schema=SCHEMA).to_pylist()]


def _dump(parked: Parked) -> dict[str, Any]:
    group = parked.group
    begun = group.replace(segments=tuple(segment for _, segment in parked.calls))
    return {
        "group_id": group.id,
        "problem_id": group.problem_id,
        "step": group.step,
        "segments": dump_segments(group, [()] * len(group.segments)),
        "begun": dump_segments(begun, [()] * len(parked.calls)),
        "calls": json.dumps([_dump_call(spec) | {"segment": segment.id} for spec, segment in parked.calls]),
        "leaves": json.dumps([[leaf.segment, leaf.weight] for leaf in group.leaves]),
        "rollouts": json.dumps([rollout.leaves for rollout in group.rollouts]),
    }


def _load(row: dict[str, Any]) -> Parked:
    group = Group(
        id=row["group_id"],
        problem_id=row["problem_id"],
        segments=load_segments(row["segments"]),
        leaves=tuple(Leaf(index, *leaf) for index, leaf in enumerate(json.loads(row["leaves"]))),
        rollouts=tuple(Rollout(tuple(leaves)) for leaves in json.loads(row["rollouts"])),
        step=row["step"],
    )
    calls = []
    for values, begun in zip(json.loads(row["calls"]), load_segments(row["begun"]), strict=True):
        segment = replace(begun, id=values.pop("segment"))
        calls.append((_load_call(values), segment))
    return Parked(group, tuple(calls))


def _dump_call(spec: CallSpec) -> dict[str, Any]:
    """A call without its forced tokens and copies: they are in segments of their own by now."""
    own = {name: getattr(spec, name) for name in ("parent", "parent_off", "max_tokens", "leaf", "priority", "keep")}
    return own | {"sampling": asdict(spec.sampling), "stop_ids": spec.stop_ids, "at_limit": str(spec.at_limit)}


def _load_call(values: dict[str, Any]) -> CallSpec:
    return CallSpec(
        **values
        | {
            "sampling": Sampling(**values["sampling"]),
            "stop_ids": tuple(values["stop_ids"]),
            "at_limit": Stop(values["at_limit"]),
        }
    )
