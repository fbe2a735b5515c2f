"""A driver for each group: how prompts get different numbers of answers, or a longest answer of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..driver import CallSpec, RolloutDriver
from ..records import Group, Segment


@dataclass(frozen=True)
class SizedDriver:
    """Asks the driver of the group."""

    of_group: Mapping[int, RolloutDriver]
    """Group id -> its driver."""

    def start(self, group: Group) -> list[CallSpec]:
        return self.of_group[group.id].start(group)

    def on_segment(self, group: Group, segment: Segment) -> list[CallSpec]:
        return self.of_group[group.id].on_segment(group, segment)

    def finish(self, group: Group) -> Group:
        return self.of_group[group.id].finish(group)
