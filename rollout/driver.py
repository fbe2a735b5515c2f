"""What a driver is: a policy over calls. It sees token ids only; one scheduler interleaves all groups on an engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from .engines.protocol import Sampling
from .records import Group, Ids, Origin, Segment, Stop


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
    copies: tuple[Origin, ...] = ()
    """Stretches of closed segments sent again before ``forced``; together they become one ``CONTEXT_COPY`` segment."""
    at_limit: Stop = Stop.LENGTH
    """What reaching ``max_tokens`` means: the completion cap (``LENGTH``) or a limit of the driver's (``BUDGET``)."""


class RolloutDriver(Protocol):
    """Decides which calls to make for a group, and what its leaves and rollouts are."""

    def start(self, group: Group) -> list[CallSpec]:
        """The first calls of a group that holds only its prompt."""

    def on_segment(self, group: Group, segment: Segment) -> list[CallSpec]:
        """More calls, now that ``segment`` is closed. A group is finished when no call is live."""

    def finish(self, group: Group) -> Group:
        """The group with its leaves and rollouts filled in."""
