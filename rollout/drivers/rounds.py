"""Trajectories of several rounds, each decoded after a copy of what was kept of the round before.

    prompt ── round 1
    prompt ── copy of parts of round 1 ── round 2
    prompt ── copy of parts of rounds 1 and 2 ── round 3

A round is a run of sampled segments; its copy names where its tokens came from, the round before it last, and that is
how a trajectory is followed back. All rounds of a trajectory are leaves of one rollout, the last one its answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..records import Group, Kind, Leaf, Origin, Rollout, Stop

Piece = tuple[int, int]
"""(sampled segment, how many of its tokens are kept)."""


def rounds_of(group: Group, segment: int) -> list[list[Piece]]:
    """The rounds of the trajectory that ends with ``segment``, first to last; together they hold all it decoded."""
    rounds: list[list[Piece]] = []
    at: int | None = segment
    while at is not None:
        pieces, before = [], None
        for piece, kept in group.path(at):
            if piece.kind is Kind.SAMPLED:
                pieces.append((piece.id, kept))
            elif piece.kind is Kind.CONTEXT_COPY:
                before = piece.origin[-1].segment
        rounds.append(pieces)
        at = before
    return rounds[::-1]


def stretch(pieces: Sequence[Piece], start: int, stop: int) -> tuple[Origin, ...]:
    """Where tokens ``start:stop`` of the concatenated pieces are; an empty stretch still names the last piece."""
    origins, at = [], 0
    for segment, kept in pieces:
        low, high = max(start - at, 0), min(stop - at, kept)
        if low < high:
            origins.append(Origin(segment, low, high))
        at += kept
    return tuple(origins) or (Origin(pieces[-1][0], pieces[-1][1], pieces[-1][1]),)


def one_rollout_per_trajectory(group: Group) -> Group:
    """A leaf for every round and a rollout for every trajectory, without those that were aborted."""
    sampled = [segment for segment in group.segments if segment.kind is Kind.SAMPLED]
    continued = {segment.parent for segment in sampled}
    trajectories: dict[int, list[int]] = {}
    for segment in sampled:
        if segment.id not in continued:
            first = rounds_of(group, segment.id)[0][0][0]
            trajectories.setdefault(first, []).append(segment.id)
    leaves: list[Leaf] = []
    rollouts = []
    for _, ends in sorted(trajectories.items()):
        if group.segments[ends[-1]].stop is not Stop.ABORTED:
            rollouts.append(Rollout(tuple(range(len(leaves), len(leaves) + len(ends)))))
            leaves += [Leaf(len(leaves) + index, end) for index, end in enumerate(ends)]
    return group.replace(leaves=tuple(leaves), rollouts=tuple(rollouts))
