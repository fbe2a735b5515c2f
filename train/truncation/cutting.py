"""Cut a leaf's path after a number of sampled tokens, without losing a token from the books.

The segment in which the cut falls is split in two. The leaf ends at the first part, whose stop reason becomes
``OUTLIER_CUT``; the second part, the tail, stays where it was in the tree. Other leaves and children of the segment
keep their text. Every token still belongs to exactly one segment, and the costs of the parts add up to that of the
whole.
"""

from __future__ import annotations

from dataclasses import replace

from ...rollout.records import Cost, Group, Kind, Leaf, Origin, Segment, Stop


def cut_leaf(group: Group, leaf: int, keep: int) -> Group:
    """The group with ``leaf`` ending after its first ``keep`` sampled tokens, of which it must have more."""
    segment, offset = _place(group, group.leaves[leaf], keep)
    split = _split(group, segment, offset)
    leaves = list(split.leaves)
    leaves[leaf] = replace(leaves[leaf], segment=segment)
    return split.replace(leaves=tuple(leaves))


def _place(group: Group, leaf: Leaf, keep: int) -> tuple[int, int]:
    """Segment id and offset in it of the first sampled token beyond ``keep``."""
    before = 0
    for segment, kept in group.path(leaf.segment):
        if segment.kind is Kind.SAMPLED:
            if before + kept > keep:
                return segment.id, keep - before
            before += kept
    raise ValueError(f"leaf {leaf.id} of group {group.id} has {before} sampled tokens, so {keep} cannot cut it")


def _split(group: Group, index: int, offset: int) -> Group:
    """Segment ``index`` becomes two: ``index`` (its first ``offset`` tokens) and ``index + 1`` (the rest)."""
    whole = group.segments[index]
    cost_head, cost_tail = _split_cost(whole.cost, offset, len(whole))
    head = replace(whole, ids=whole.ids[:offset], logp=whole.logp[:offset], stop=Stop.OUTLIER_CUT, cost=cost_head)
    tail = replace(
        whole, id=index + 1, parent=index, parent_off=offset, ids=whole.ids[offset:], logp=whole.logp[offset:],
        cost=cost_tail,
    )  # fmt: skip
    if whole.earlier:
        head, tail = head.with_versions(whole.version_T[:offset]), tail.with_versions(whole.version_T[offset:])

    def moved(old: int) -> int:
        return old + (old > index)

    def follow(segment: Segment) -> Segment:
        """A later segment, with its references to the whole turned into references to the parts."""
        parent, parent_off = segment.parent, segment.parent_off
        assert parent is not None
        if parent == index and parent_off > offset:
            parent, parent_off = index + 1, parent_off - offset
        else:
            parent = moved(parent)
        origins = tuple(part for origin in segment.origin for part in _split_origin(origin, index, offset))
        return replace(segment, id=segment.id + 1, parent=parent, parent_off=parent_off, origin=origins)

    segments = (*group.segments[:index], head, tail, *map(follow, group.segments[index + 1 :]))
    # A leaf at the end of the whole is at the end of the tail.
    leaves = tuple(replace(leaf, segment=leaf.segment + (leaf.segment >= index)) for leaf in group.leaves)
    return group.replace(segments=segments, leaves=leaves)


def _split_origin(origin: Origin, index: int, offset: int) -> list[Origin]:
    """The same stretch of tokens in the numbering after the split."""
    if origin.segment != index:
        return [replace(origin, segment=origin.segment + (origin.segment > index))]
    parts = [
        Origin(index, origin.start, min(origin.stop, offset)),
        Origin(index + 1, max(origin.start - offset, 0), origin.stop - offset),
    ]
    return [part for part in parts if part.start < part.stop] or [Origin(index, 0, 0)]


def _split_cost(cost: Cost, offset: int, length: int) -> tuple[Cost, Cost]:
    """Costs of the first ``offset`` of ``length`` tokens, and of the rest.

    The context was read in at the start. Decoding reads one more token of cache with every step, so the reads of n
    steps are n c + n (n - 1) / 2 for some context length c.
    """
    context = (cost.kv_read - length * (length - 1) / 2) / length
    read = min(cost.kv_read, max(0, round(offset * context + offset * (offset - 1) / 2)))
    decoded = min(offset, cost.decoded)
    head = Cost(decoded, cost.prefilled, cost.cached, read)
    return head, Cost(decoded=cost.decoded - decoded, kv_read=cost.kv_read - read)
