"""Reading a tree of sampled segments: which paths are open at their end, how long they are, where an offset lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..engines.protocol import NoiseKey
from ..noise import stream_key
from ..records import Group, Logps, Segment

Decode = Callable[[Sequence[int]], str]


def tips(group: Group) -> list[Segment]:
    """Sampled segments that nothing continues from their end, open ones too. One that is only cut back to is a tip."""
    segments = group.segments
    continued = {s.parent for s in segments[1:] if s.parent and s.parent_off == len(segments[s.parent].ids)}
    return [s for s in segments[1:] if s.id not in continued]


def response_length(group: Group, segment: int, kept: int) -> int:
    """Response tokens up to the first ``kept`` tokens of a segment."""
    return sum(count for _, count in group.path(segment)[1:-1]) + (kept if segment else 0)


def response_logp(group: Group, segment: int) -> Logps:
    """Behaviour log-probs of a whole response, shape (T,)."""
    return np.concatenate([piece.logp[:kept] for piece, kept in group.path(segment)[1:]])


def response_text(group: Group, segment: int, decode: Decode | None, last: int = 0) -> str:
    """Text of a response, or of its last tokens."""
    ids = group.context_ids(segment)[len(group.segments[0]) :]
    return decode(ids[-last:].tolist()) if decode else ""


def place(group: Group, segment: int, offset: int) -> tuple[int, int]:
    """Where the first ``offset`` response tokens of a path end: (segment, tokens kept of it), or the prompt's end."""
    pieces = group.path(segment)
    at = (0, pieces[0][1])
    for piece, kept in pieces[1:]:
        if offset <= 0:
            break
        at = (piece.id, min(offset, kept))
        offset -= kept
    return at


def branching_weights(group: Group, leaves: Sequence[int], before: int) -> list[float]:
    """Product of 1 / children along the path of each leaf, a segment's id; scaled to sum to 1.

    Children are counted among the segments with ids below ``before``; a leaf from there on weighs 0, unless all are.
    """
    children: dict[tuple[int, int], int] = {}
    for segment in group.segments[1:before]:
        key = (segment.parent or 0, segment.parent_off)
        children[key] = children.get(key, 0) + 1
    weights = []
    for leaf in leaves:
        path = group.path(leaf)
        shares = [1 / children[piece.id, kept] for piece, kept in path[:-1]] if leaf < before else [0.0]
        weights.append(float(np.prod(shares)))
    total = sum(weights)
    return [weight / total for weight in weights] if total else [1 / len(leaves) for _ in leaves]


def generator(seed: int, group: Group, purpose: int) -> np.random.Generator:
    """Random numbers of a driver's own: a function of the seed, the group's step, id and segments, and the purpose."""
    key = stream_key(NoiseKey(seed, group.step, group.id, -1 - purpose - 8 * len(group.segments)))
    return np.random.Generator(np.random.Philox(key=key))
