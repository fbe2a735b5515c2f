"""A group's segments as the tree that a person sees: cut where others branch off, runs without a branch kept together.

    segments   0 ── 1 ──x── eos         branches   0, 1[:x] ─┬─ 1[x:]
                       └ 2 ── 3                              └─ 2, 3

A branch that keeps none of its parent's tokens stands beside the parent. Of branches that leave at the same place,
the parent's own continuation is the first, then those of earlier rollouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .records import Group, Kind, Segment


@dataclass(frozen=True, slots=True)
class Stretch:
    """Tokens ``start:stop`` of a segment, between which nothing branches off."""

    segment: Segment
    index: int
    """Counts the stretches of a segment from 0."""
    start: int
    stop: int

    @property
    def ends(self) -> bool:
        """Whether the segment ends here."""
        return self.stop == len(self.segment)

    @property
    def surprisal(self) -> float | None:
        """-log p of the first token, in nats; None where it was not sampled."""
        if self.segment.kind is not Kind.SAMPLED or self.start == self.stop:
            return None
        return max(0.0, -float(self.segment.logp[self.start]))


@dataclass(frozen=True, slots=True)
class Branch:
    """Stretches one after another, and what follows the last one: nothing, or at least two branches."""

    stretches: tuple[Stretch, ...]
    below: tuple[Branch, ...]


def stretches(group: Group) -> list[list[Stretch]]:
    """By segment: its stretches in order, at least one each."""
    return _cut(group, _children(group))


def branches(group: Group) -> Branch:
    """The tree; its first stretch is the prompt, or the part of it that all share."""
    children = _children(group)
    pieces = _cut(group, children)

    def following(stretch: Stretch) -> list[Stretch]:
        own = pieces[stretch.segment.id][stretch.index + 1 : stretch.index + 2]
        return own + [pieces[child][0] for child in children[stretch.segment.id].get(stretch.stop, ())]

    def branch(first: Stretch) -> Branch:
        run, below = [first], following(first)
        while len(below) == 1:
            run.append(below[0])
            below = following(below[0])
        return Branch(tuple(run), tuple(map(branch, below)))

    return branch(pieces[0][0])


def _cut(group: Group, children: Sequence[Mapping[int, Sequence[int]]]) -> list[list[Stretch]]:
    return [_stretches(segment, list(places)) for segment, places in zip(group.segments, children, strict=True)]


def _stretches(segment: Segment, places: list[int]) -> list[Stretch]:
    cuts = sorted(place for place in places if place < len(segment))
    bounds = [0, *cuts, len(segment)]
    return [Stretch(segment, i, start, stop) for i, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False))]


def _children(group: Group) -> list[dict[int, list[int]]]:
    """By segment: offset -> the segments that continue it from there."""
    rollout_of: dict[int, int] = {}
    for number, rollout in enumerate(group.rollouts):
        for leaf in rollout.leaves:
            for segment, _ in group.path(group.leaves[leaf].segment):
                rollout_of.setdefault(segment.id, number)
    found: list[dict[int, list[int]]] = [{} for _ in group.segments]
    for segment in sorted(group.segments[1:], key=lambda one: (rollout_of.get(one.id, len(group.rollouts)), one.id)):
        parent, kept = _place(group, segment)
        found[parent].setdefault(kept, []).append(segment.id)
    return found


def _place(group: Group, segment: Segment) -> tuple[int, int]:
    """(segment, tokens kept of it) of which at least one is kept, except where the prompt itself is not."""
    assert segment.parent is not None
    parent, kept = group.segments[segment.parent], segment.parent_off
    while kept == 0 and len(parent) and parent.parent is not None:
        parent, kept = group.segments[parent.parent], parent.parent_off
    return parent.id, kept
