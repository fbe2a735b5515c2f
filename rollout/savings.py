"""What a shape of rollouts saves, in tokens: the counters that follow from a finished group alone.

    T_traj   sum over leaves of sampled tokens on the path        what flat sampling of the same answers would decode
    T_crit   sampled tokens on a rollout's longest dependency path   decode steps until the last of its leaves is there
    token_saving    = 1 - T_dec / T_traj
    parallel_saving = 1 - T_crit / T_dec                           T_dec: of the segments that the rollout depends on

T_dec, T_pre and T_kv are the engine's (``Cost``). A segment depends on its parent up to where it splits off, and a
context copy on the tokens that it repeats. T_crit is of one rollout: the answers to a prompt run beside each other
however they are sampled, so what several of them take says nothing of the shape of one. Over rollouts it is averaged.
"""

from __future__ import annotations

from collections.abc import Sequence

from .records import Group, Kind, Rollout

_DECODED = (Kind.SAMPLED, Kind.PROBE)


def trajectory_tokens(group: Group) -> int:
    """T_traj of one group: shared tokens count once for each leaf below them."""
    return sum(group.trained_length(leaf) for leaf in group.leaves)


def critical_tokens(group: Group, rollout: Rollout | None = None) -> int:
    """T_crit of one rollout, in tokens; without one, of all that the group holds.

    Tokens decoded and then discarded count, because they were waited for.
    """
    needed = range(len(group.segments)) if rollout is None else needed_segments(group, rollout)
    before: list[int] = []  # by segment: tokens decoded, one after another, before it can begin

    def until(segment: int, offset: int) -> int:
        decoded = group.segments[segment].kind in _DECODED
        return before[segment] + (offset if decoded else 0)

    ends = [0]
    for segment in group.segments:
        start = 0 if segment.parent is None else until(segment.parent, segment.parent_off)
        before.append(max([start, *(until(origin.segment, origin.stop) for origin in segment.origin)]))
        if segment.id in needed:
            ends.append(until(segment.id, len(segment)))
    return max(ends)


def decoded_tokens(group: Group, rollout: Rollout) -> int:
    """T_dec of the segments that a rollout depends on, those shared with other rollouts included."""
    needed = (group.segments[segment] for segment in needed_segments(group, rollout))
    return sum(len(segment) for segment in needed if segment.kind in _DECODED)


def needed_segments(group: Group, rollout: Rollout) -> set[int]:
    """Ids of the segments without which the rollout would not be: its leaves' paths, and what these copy from."""
    return set(used_tokens(group, (rollout,)))


def used_tokens(group: Group, rollouts: Sequence[Rollout] | None = None) -> dict[int, int]:
    """Segment -> how many of its tokens some leaf stands on or copies; what lies beyond was discarded.

    rollouts: those whose leaves are meant; by default all.
    """
    used: dict[int, int] = {}
    leaves = [leaf for rollout in (group.rollouts if rollouts is None else rollouts) for leaf in rollout.leaves]
    ends = [group.leaves[leaf].segment for leaf in leaves]
    waiting = [(segment, len(group.segments[segment])) for segment in ends]
    while waiting:
        segment, kept = waiting.pop()
        if kept > used.get(segment, -1):
            parent, first = group.segments[segment].parent, segment not in used
            used[segment] = kept
            waiting += [(origin.segment, origin.stop) for origin in group.segments[segment].origin if first]
            waiting += [(parent, group.segments[segment].parent_off)] if first and parent is not None else []
    return used


def token_saving(decoded: int, trajectory: int) -> float:
    """1 - T_dec / T_traj; 0 for flat sampling, negative where more was discarded than shared."""
    return 1 - decoded / trajectory if trajectory else 0.0


def parallel_saving(critical: int, decoded: int) -> float:
    """1 - T_crit / T_dec: the share of the decoding that ran beside other decoding."""
    return 1 - critical / decoded if decoded else 0.0


def level_saving(widths: Sequence[int]) -> float:
    """Token saving of a tree of equal segments, none of which ends early: 1 - sum(widths) / (levels * leaves).

    widths: segments at each level, the leaves last.
    """
    return token_saving(sum(widths), len(widths) * widths[-1])
