"""Flat sampling: every answer is decoded from the prompt on its own, a tree of depth one."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ConfigError
from ..driver import CallSpec, shared
from ..engines.protocol import Sampling
from ..records import Group, Kind, Leaf, Rollout, Segment


@dataclass(frozen=True)
class FlatDriver:
    """``group_size`` independent answers to each prompt."""

    group_size: int = shared(16)
    """Answers sampled for one prompt."""
    max_completion: int = shared(640)
    """Longest answer in tokens; one that reaches it stops with ``Stop.LENGTH``."""
    sampling: Sampling = shared(Sampling())
    """Temperature, top-p and top-k of every answer."""

    def __post_init__(self) -> None:
        for name in ("group_size", "max_completion"):
            if getattr(self, name) < 1:
                raise ConfigError(f"rollout.{name} is {getattr(self, name)} but must be at least 1; raise it")

    def start(self, group: Group) -> list[CallSpec]:
        """One call per answer, all from the end of the prompt."""
        end = len(group.segments[0])
        return [CallSpec(0, end, self.max_completion, leaf, self.sampling, keep=0) for leaf in range(self.group_size)]

    def on_segment(self, group: Group, segment: Segment) -> list[CallSpec]:
        """Nothing more: an answer is one segment."""
        return []

    def finish(self, group: Group) -> Group:
        """A leaf and a rollout of its own for every answer."""
        answers = [segment.id for segment in group.segments if segment.kind is Kind.SAMPLED]
        return group.replace(
            leaves=tuple(Leaf(index, segment) for index, segment in enumerate(answers)),
            rollouts=tuple(Rollout((index,)) for index in range(len(answers))),
        )
