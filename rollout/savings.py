"""What a shape of rollouts saves, in tokens: the counters that follow from a finished group alone.

    T_traj   sum over leaves of sampled tokens on the path        what flat sampling of the same answers would decode
    T_crit   sampled tokens on the longest chain of dependencies   decode steps that cannot run at the same time
    token_saving    = 1 - T_dec / T_traj
    parallel_saving = 1 - T_crit / T_dec

T_dec, T_pre and T_kv are the engine's (``Cost``). A segment depends on its parent up to where it splits off, and a
context copy on the tokens that it repeats.
"""

from __future__ import annotations

from collections.abc import Sequence

from .records import Group, Kind


def trajectory_tokens(group: Group) -> int:
    """T_traj of one group: shared tokens count once for each leaf below them."""
    return sum(group.trained_length(leaf) for leaf in group.leaves)


def critical_tokens(group: Group) -> int:
    """T_crit of one group, in tokens; those decoded and discarded count, because they were waited for."""
    before: list[int] = []  # by segment: tokens decoded, one after another, before it can begin

    def until(segment: int, offset: int) -> int:
        decoded = group.segments[segment].kind in (Kind.SAMPLED, Kind.PROBE)
        return before[segment] + (offset if decoded else 0)

    ends = [0]
    for segment in group.segments:
        start = 0 if segment.parent is None else until(segment.parent, segment.parent_off)
        before.append(max([start, *(until(origin.segment, origin.stop) for origin in segment.origin)]))
        ends.append(until(segment.id, len(segment)))
    return max(ends)


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
