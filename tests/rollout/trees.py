"""A driver that grows random trees: splits before the end, forced tokens, context copies."""

from __future__ import annotations

import random

import numpy as np

from laconic.rollout import records
from laconic.rollout.driver import CallSpec
from laconic.rollout.engines.protocol import Request, Sampling
from laconic.rollout.records import Group, Leaf, Origin, Rollout, Segment, Stop


class RandomTree:
    """Every closed segment may branch; decisions are drawn from (seed, group, segment), so runs repeat."""

    def __init__(self, seed: int, segment_tokens: int = 6, max_segments: int = 24) -> None:
        self.seed, self.segment_tokens, self.max_segments = seed, segment_tokens, max_segments

    def start(self, group: Group) -> list[CallSpec]:
        count = random.Random(f"{self.seed}/{group.id}").randint(1, 3)
        return [self._spec(0, len(group.segments[0]), leaf) for leaf in range(count)]

    def on_segment(self, group: Group, segment: Segment) -> list[CallSpec]:
        rng = random.Random(f"{self.seed}/{group.id}/{segment.id}")
        specs = []
        for _ in range(rng.choice([0, 0, 1, 2])):
            if len(group.segments) + len(specs) * 3 > self.max_segments:
                break
            kind = rng.choice(["end", "split", "forced", "copy"])
            kept = rng.randint(0, len(segment)) if kind == "split" else len(segment)
            forced = [rng.randint(1, 9) for _ in range(rng.randint(1, 3))] if kind == "forced" else []
            copies: tuple[Origin, ...] = ()
            if kind == "copy":
                start = rng.randint(0, len(segment) - 1)
                copies = (Origin(segment.id, start, len(segment)), Origin(0, 0, 1))
            leaf = len(group.segments) * 8 + len(specs)
            specs.append(self._spec(segment.id, kept, leaf, forced, copies))
        return specs

    def finish(self, group: Group) -> Group:
        """Leaves are the sampled segments without children; a branch's weight is shared equally by its children."""
        children: dict[int, list[int]] = {}
        for segment in group.segments[1:]:
            children.setdefault(segment.parent, []).append(segment.id)
        leaves: list[Leaf] = []

        def descend(segment: int, weight: float) -> None:
            below = children.get(segment, [])
            if not below:
                leaves.append(Leaf(len(leaves), segment, weight))
            for child in below:
                descend(child, weight / len(below))

        descend(0, 1.0)
        return group.replace(leaves=tuple(leaves), rollouts=(Rollout(tuple(range(len(leaves)))),))

    def _spec(self, parent: int, kept: int, leaf: int, forced=(), copies=()) -> CallSpec:
        return CallSpec(
            parent,
            kept,
            self.segment_tokens,
            leaf,
            Sampling(),
            forced=np.asarray(forced, np.int32),
            copies=copies,
            at_limit=Stop.BUDGET,
        )


def prompt_group(index: int, ids: list[int]) -> Group:
    """A group that holds only its prompt."""
    return records.prompt_group(index, f"problem/{index}", ids)


def random_script(seed: int):
    """Completions of random length ending in EOS (0), a function of context and noise stream."""

    def script(context: tuple[int, ...], request: Request) -> list[int]:
        rng = random.Random(f"{seed}/{context}/{request.noise.leaf}")
        return [rng.randint(1, 9) for _ in range(rng.randint(0, 12))]

    return script
