"""Trees to give credit on: hand-made ones and random ones, each leaf a rollout of its own."""

from __future__ import annotations

import numpy as np
from trees import RandomTree, prompt_group, random_script

from laconic.rollout.engines.fake import ScriptedEngine
from laconic.rollout.records import Group, Kind, Leaf, Rollout, Segment, Stop
from laconic.rollout.scheduler import run_groups


class Wire:
    """``gather`` of ranks that run one after another: each hears of those before it, so the last one of all."""

    def __init__(self) -> None:
        self.sent: list = []

    def __call__(self, value):
        self.sent.append(value)
        return list(self.sent)


def tree(shape, weights=None, group=0, logp=-0.5) -> Group:
    """A group from (parent, tokens kept of it, tokens) of each segment, 0 being a prompt of two tokens.

    Leaves are the segments that nothing continues.
    """
    prompt = prompt_group(group, [7, 8])
    segments = [
        Segment(i, parent, kept, Kind.SAMPLED, np.arange(n, dtype=np.int32), np.full(n, logp, np.float32), Stop.EOS)
        for i, (parent, kept, n) in enumerate(shape, start=1)
    ]
    ends = [s.id for s in segments if all(o.parent != s.id or o.parent_off < len(s) for o in segments)]
    weights = [1.0] * len(ends) if weights is None else weights
    made = prompt.replace(
        segments=(*prompt.segments, *segments),
        leaves=tuple(Leaf(i, end, weight) for i, (end, weight) in enumerate(zip(ends, weights, strict=True))),
        rollouts=tuple(Rollout((i,)) for i in range(len(ends))),
    )
    made.validate()
    return made


def flat(sizes) -> list[Group]:
    """Groups of independent answers of these many tokens."""
    return [tree([(0, 2, n) for n in lengths], group=index) for index, lengths in enumerate(sizes)]


def two_by_two(lengths=(1, 1, 2, 1, 3, 2)) -> Group:
    """Leaves u/a/x, u/a/y, u/b/z and u/b/w; lengths of a, b, x, y, z, w."""
    a, b, *leaves = lengths
    ends = [(1, a), (1, a), (2, b), (2, b)]
    return tree([(0, 2, a), (0, 2, b), *((*end, n) for end, n in zip(ends, leaves, strict=True))])


def random_groups(seed: int, prompts=((5, 6, 7), (8,), (4, 4))) -> list[Group]:
    """Late splits, forced and copied tokens, chains, leaves of their own weights."""
    groups = [prompt_group(index, list(ids)) for index, ids in enumerate(prompts)]
    engine = ScriptedEngine(random_script(seed), max_live=4)
    grown = run_groups(RandomTree(seed), engine, groups, seed=seed, step=0)
    return [g.replace(rollouts=tuple(Rollout((leaf.id,)) for leaf in g.leaves)) for g in grown]


def random_rewards(groups, seed: int, unscored: float = 0.0) -> np.ndarray:
    """A reward per rollout: outcomes in some groups, any numbers in others, some NaN."""
    rng = np.random.default_rng(seed)
    parts = [
        rng.integers(0, 2, len(g.rollouts)) if rng.random() < 0.6 else rng.normal(size=len(g.rollouts)) for g in groups
    ]
    reward = np.concatenate([np.empty(0), *parts]).astype(np.float64)
    reward[rng.random(len(reward)) < unscored] = np.nan
    return reward


def tokens_of(group: Group, rollout: Rollout) -> list[tuple[int, int]]:
    """(segment, place) of every token on the path of a rollout's leaf, the prompt's left out."""
    pieces = group.path(group.leaves[rollout.leaves[0]].segment)[1:]
    return [(segment.id, place) for segment, kept in pieces for place in range(kept)]


def stretches(group: Group) -> list[list[tuple[int, frozenset[int]]]]:
    """Of each rollout: runs of tokens of one segment that the same rollouts share, as (segment, those rollouts)."""
    paths = [tokens_of(group, rollout) for rollout in group.rollouts]
    sharing = {token: frozenset(i for i, path in enumerate(paths) if token in path) for path in paths for token in path}
    return [list(dict.fromkeys((token[0], sharing[token]) for token in path)) for path in paths]


def by_token(group: Group, rollout: Rollout, advantage) -> dict[tuple[int, int], float]:
    """The advantage of each sampled token on a rollout's path."""
    sampled = [t for t in tokens_of(group, rollout) if group.segments[t[0]].kind is Kind.SAMPLED]
    return {(segment, place): float(advantage[segment][place]) for segment, place in sampled}


def sharing_token(group: Group, rollout: Rollout):
    """The rollouts that share each sampled token on a rollout's path."""
    paths = [set(tokens_of(group, other)) for other in group.rollouts]
    mine = [t for t in tokens_of(group, rollout) if group.segments[t[0]].kind is Kind.SAMPLED]
    return {token: frozenset(i for i, path in enumerate(paths) if token in path) for token in mine}
