"""What a driver is: a policy over calls. It sees token ids only; one scheduler interleaves all groups on an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from typing import Any, Protocol

import numpy as np

from ..errors import ConfigError
from .engines.protocol import Sampling
from .records import Group, Ids, Kind, Origin, Segment, Stop

Piece = Origin | Ids
"""Something put into a context without sampling it: a stretch of a closed segment, or tokens of the driver's own."""


@dataclass(frozen=True, slots=True)
class CallSpec:
    """A call a driver asks for: continue segment ``parent`` after its first ``parent_off`` tokens."""

    parent: int
    parent_off: int
    max_tokens: int
    leaf: int
    """Noise stream of the call; two calls of a group with equal ``leaf`` never overlap in position."""
    sampling: Sampling
    stop_ids: tuple[int, ...] = ()
    forced: Ids = field(default_factory=lambda: np.empty(0, np.int32))
    """Tokens inserted before decoding; they become a ``FORCED`` segment of their own."""
    priority: int = 0
    """Smaller is sooner."""
    copies: tuple[Piece, ...] = ()
    """Stretches of closed segments, and tokens between them, sent before ``forced``; see :func:`insert`."""
    at_limit: Stop = Stop.LENGTH
    """What reaching ``max_tokens`` means: the completion cap (``LENGTH``) or a limit of the driver's (``BUDGET``)."""
    keep: int | None = None
    """How many tokens of the path, the prompt's first, later calls of the group may begin with; None: all of them."""


def insert(segments: list[Segment], parent: int, kept: int, pieces: Sequence[Piece], version: int) -> tuple[int, int]:
    """Append ``pieces`` after the first ``kept`` tokens of ``parent``; returns what then to continue, and from where.

    Neighbouring stretches become one ``CONTEXT_COPY`` segment, neighbouring tokens one ``FORCED`` segment.
    """
    filled = [piece for piece in pieces if isinstance(piece, Origin) or len(piece)]
    for copied, run in groupby(filled, lambda piece: isinstance(piece, Origin)):
        some = tuple(run)
        parts = [segments[p.segment].ids[p.start : p.stop] if isinstance(p, Origin) else p for p in some]
        ids = np.concatenate(parts).astype(np.int32)
        segments.append(
            Segment(
                id=len(segments),
                parent=parent,
                parent_off=kept,
                kind=Kind.CONTEXT_COPY if copied else Kind.FORCED,
                ids=ids,
                logp=np.full(len(ids), np.nan, np.float32),
                origin=tuple(piece for piece in some if isinstance(piece, Origin)),
                policy_version=version,
            )
        )
        parent, kept = len(segments) - 1, len(ids)
    return parent, kept


def shared(default: Any) -> Any:
    """A field of a driver that is no key of its own in a configuration.

    The section around sets it for every driver, such as ``group_size``, or ``with_tokenizer`` fills it in.
    """
    return field(default=default, metadata={"shared": True})


def check_least(driver: Any, **least: int) -> None:
    """Raise ``ConfigError`` for the first of these settings of ``driver`` that is too small."""
    of_section = {f.name for f in fields(driver) if f.metadata.get("shared")}
    for key, limit in least.items():
        value = getattr(driver, key)
        if value < limit:
            where = "rollout" if key in of_section else "rollout.driver"
            raise ConfigError(f"{where}.{key} is {value} but must be at least {limit}; raise it")


class RolloutDriver(Protocol):
    """Decides which calls to make for a group, and what its leaves and rollouts are."""

    def start(self, group: Group) -> list[CallSpec]:
        """The first calls of a group that holds only its prompt."""

    def on_segment(self, group: Group, segment: Segment) -> list[CallSpec]:
        """More calls, now that ``segment`` is closed. A group is finished when no call is live."""

    def finish(self, group: Group) -> Group:
        """The group with its leaves and rollouts filled in."""
