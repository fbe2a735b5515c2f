"""What a shape of rollouts saves, in tokens: the counters that follow from a finished group alone.

    T_traj   sum over answers of the sampled tokens they need     what flat sampling of the same answers would decode
    T_crit   sampled tokens on a rollout's longest dependency path   decode steps until the last of its leaves is there
    T_flat   sum over answers of n (prompt + (n - 1) / 2)         KV tokens that decoding their n tokens in a row reads
    saving   1 - T_dec / T_traj of tokens,  1 - T_kv / T_flat of KV reading,  1 - T_crit / T_dec of decode steps, with
             the T_dec of the tokens that the rollout depends on

T_dec, T_pre and T_kv are the engine's (``Cost``). A segment depends on its parent up to where it splits off, and a
context copy on the tokens that it repeats. T_crit is of one rollout: the answers to a prompt run beside each other
however they are sampled, so what several of them take says nothing of the shape of one. Over rollouts it is averaged.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from .records import Cost, Group, Kind, Rollout, Stop

_DECODED = (Kind.SAMPLED, Kind.PROBE)


def answer_tokens(group: Group) -> list[int]:
    """Sampled tokens that each answer of a group needs; their sum is T_traj: shared ones count for each."""
    answers = (leaf for rollout in group.rollouts for leaf in answer_leaves(group, rollout))
    return [_tokens(group, used_tokens(group, (Rollout((leaf,)),)), (Kind.SAMPLED,)) for leaf in answers]


def flat_cost(group: Group) -> Cost:
    """What flat sampling of the same answers would decode (T_traj) and read of the KV cache (T_flat)."""
    tokens, prompt = answer_tokens(group), len(group.segments[0])
    return Cost(decoded=sum(tokens), kv_read=sum(n * prompt + n * (n - 1) // 2 for n in tokens))


def answer_leaves(group: Group, rollout: Rollout) -> list[int]:
    """Leaves of a rollout that are answers of their own, not parts (chunks, threads) of which another one is made.

    A thought that others branch off inside of is an answer if it ended by itself; a thread that did, and that a join
    repeats, is none.
    """
    repeated = {origin.segment for segment in group.segments for origin in segment.origin}
    answers = []
    for leaf in rollout.leaves:
        end = group.segments[group.leaves[leaf].segment]
        others = tuple(one for one in rollout.leaves if group.leaves[one].segment != end.id)
        last_or_whole = leaf == rollout.leaves[-1] or (end.stop is Stop.EOS and end.id not in repeated)
        if last_or_whole or end.id not in used_tokens(group, (Rollout(others),)):
            answers.append(leaf)
    return answers


def critical_tokens(group: Group, rollout: Rollout | None = None) -> int:
    """T_crit of one rollout, in tokens; without one, of all that the group holds, discarded tokens included."""
    used = {s.id: len(s) for s in group.segments} if rollout is None else used_tokens(group, (rollout,))
    before: list[int] = []  # by segment: tokens decoded, one after another, before it can begin

    def until(segment: int, offset: int) -> int:
        decoded = group.segments[segment].kind in _DECODED
        return before[segment] + (offset if decoded else 0)

    ends = [0]
    for segment in group.segments:
        start = 0 if segment.parent is None else until(segment.parent, segment.parent_off)
        before.append(max([start, *(until(origin.segment, origin.stop) for origin in segment.origin)]))
        if segment.id in used:
            ends.append(until(segment.id, used[segment.id]))
    return max(ends)


def decoded_tokens(group: Group, rollout: Rollout) -> int:
    """T_dec of one rollout: decoded tokens that its leaves stand on or copy, those shared with others included."""
    return _tokens(group, used_tokens(group, (rollout,)), _DECODED)


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


def saving(spent: int, otherwise: int) -> float:
    """1 - spent / otherwise: 0 where nothing is saved, negative where more is spent, on discarded tokens say."""
    return 1 - spent / otherwise if otherwise else 0.0


def level_saving(widths: Sequence[int]) -> float:
    """Token saving of a tree of equal segments, none of which ends early: 1 - sum(widths) / (levels * leaves).

    widths: segments at each level, the leaves last.
    """
    return saving(sum(widths), len(widths) * widths[-1])


def _tokens(group: Group, used: Mapping[int, int], kinds: Collection[Kind]) -> int:
    return sum(tokens for segment, tokens in used.items() if group.segments[segment].kind in kinds)
