"""What drivers of trees share: where a path is split, whose random numbers a branch takes, what a leaf weighs.

    prompt ──┬── segment ──┬── segment ── leaf       children at the end of a segment: its branches
             │             └── segment ── leaf
             └── segm│ent ── leaf                    a child before the end: a late split
                     └── segment ── leaf

A branching weight is the product, over the ancestors of a leaf, of 1 / (number of branches). The weighted mean of the
rewards of a tree is an unbiased estimate of the prompt's value as long as no number of branches looks at what the
branches became. The plain mean over leaves is not: paths that end early have one leaf, the others many.
"""

from __future__ import annotations

from collections.abc import Collection

from ..records import Group, Kind, Segment


def is_late(group: Group, segment: Segment) -> bool:
    """Whether a sampled segment splits off before the end of its parent."""
    return segment.parent is not None and segment.parent_off < len(group.segments[segment.parent])


def response_length(group: Group, segment: int, kept: int) -> int:
    """Tokens after the prompt, up to and including ``kept`` tokens of ``segment``."""
    return sum(size for _, size in group.path(segment)[1:-1]) + (kept if segment else 0)


def split_point(group: Group, segment: int, kept: int) -> tuple[int, int]:
    """Where the path to ``segment`` is cut to keep ``kept`` response tokens: (segment, tokens kept of it).

    The segment is the one that holds the first token that is cut off, so that fewer than all of its tokens are kept,
    none at all where the cut lies between two segments, and a cut is always a late split.
    """
    for piece, size in group.path(segment)[1:]:
        if kept < size:
            return piece.id, kept
        kept -= size
    raise ValueError(f"the path to segment {segment} has no token left to cut: {kept} more would have to be kept")


def streams(group: Group) -> dict[int, int]:
    """Sampled segment -> its noise stream: the first branch at an end goes on with its parent's, others begin one.

    So every leftmost path is the answer that flat sampling gives, whatever the length of the segments.
    """
    found: dict[int, int] = {}
    taken: set[int] = set()
    for segment in group.segments[1:]:
        parent = segment.parent
        inherits = parent in found and not is_late(group, segment) and parent not in taken
        found[segment.id] = found[parent] if inherits else segment.id - 1  # type: ignore[index]
        if inherits:
            taken.add(parent)  # type: ignore[arg-type]
    return found


def branching_weights(group: Group, ends: Collection[int], *, late: bool) -> dict[int, float]:
    """Segment -> weight for the segments in ``ends``, where leaves end; the weights sum to 1.

    late: whether late splits count as branches, the rest of the segment that they split being one more; if not,
    leaves below them weigh 0, and all others what they weighed before the first late split. Branches without a leaf
    are as if they did not exist.
    """
    below: dict[int, list[Segment]] = {}
    bearing = set(ends)
    for segment in reversed(group.segments[1:]):
        if segment.kind is Kind.SAMPLED and segment.id in bearing and (late or not is_late(group, segment)):
            below.setdefault(segment.parent or 0, []).append(segment)
            bearing.add(segment.parent or 0)
    weight = dict.fromkeys(sorted(ends), 0.0)
    mass = {0: 1.0}
    for segment in group.segments:
        left = mass.get(segment.id, 0.0)
        children = sorted(below.get(segment.id, []), key=lambda child: (child.parent_off, child.id))
        while children:
            at = children[0].parent_off
            here = [child for child in children if child.parent_off == at]
            children = children[len(here) :]
            goes_on = at < len(segment) and (bool(children) or segment.id in weight)
            share = left / (len(here) + goes_on)
            mass.update({child.id: share for child in here})
            left = share if goes_on else 0.0
        if segment.id in weight:
            weight[segment.id] = left
    if not late and ends and not any(weight.values()):
        return branching_weights(group, ends, late=True)
    return weight
