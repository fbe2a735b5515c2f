"""Random groups that branch, with weights that binary fractions hold exactly: sums over rows then have no rounding."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np

from laconic.rollout.records import Group, Kind, Leaf, Rollout, Segment, Stop, prompt_group
from laconic.train.rows import Row, Totals, flatten

TOTALS = Totals(rollouts=64, tokens=1024)
"""What the weights of all rows are divided by: powers of two."""
VOCABULARY = 32


def random_group(rng: random.Random, number: int = 0, longest: int = 9, words: int = VOCABULARY) -> Group:
    """Late splits, empty answers, inserted tokens, rollouts of several leaves, tokens of older policies.

    Few words, so that siblings also begin alike by chance; their log-probs then are equal or not.
    """
    group = prompt_group(number, f"p{number}", [rng.randrange(words) for _ in range(rng.randint(1, 6))])
    segments = list(group.segments)
    for index in range(1, rng.randint(2, 14)):
        parent = rng.choice(segments[-3:]) if rng.random() < 0.7 else rng.choice(segments)
        kept = len(parent) if not parent.id or rng.random() < 0.6 else rng.randint(0, len(parent))
        kind = Kind.SAMPLED if index == 1 or rng.random() < 0.8 else Kind.FORCED
        count = rng.randint(0, longest)
        ids = np.array([rng.randrange(min(4, words) if rng.random() < 0.5 else words) for _ in range(count)], np.int32)
        sampled = kind is Kind.SAMPLED
        logp = np.array([-rng.choice([0.5, 1.25, 3.0]) if sampled else np.nan for _ in range(count)], np.float32)
        segment = Segment(index, parent.id, kept, kind, ids, logp, Stop.EOS)
        version_T = np.sort([rng.randint(1, 2) for _ in range(count)])
        segments.append(segment.with_versions(version_T) if sampled else segment)
    parents = {segment.parent for segment in segments}
    ends = [segment.id for segment in segments[1:] if segment.id not in parents or rng.random() < 0.2]
    leaves = tuple(Leaf(index, end) for index, end in enumerate(ends))
    cuts = sorted({0, len(leaves), *(rng.randint(0, len(leaves)) for _ in range(len(leaves)))})
    rollouts = tuple(Rollout(tuple(range(start, stop))) for start, stop in pairwise(cuts))
    group = group.replace(segments=tuple(segments), leaves=leaves, rollouts=rollouts)
    group.validate()
    return group


def rows_of(groups: list[Group], rng: random.Random, *, by_token: bool = False, imitate: bool = True) -> list[Row]:
    """Rows with advantages and imitation weights of either sign, as multiples of an eighth."""
    rollouts = [(group, rollout) for group in groups for rollout in group.rollouts]
    advantage = [rng.randint(-8, 8) / 8 for _ in rollouts]
    tokens = None
    if by_token:
        tokens = [
            {
                number: np.array([rng.randint(-8, 8) / 8 for _ in group.segments[number].ids])
                for number in group.trained(one)
            }
            for group, one in rollouts
        ]
    nll = [rng.choice([0, 1 / 32]) for _ in rollouts] if imitate else None
    options = dict(normalizer="constant", max_completion=16, keep_all=True, totals=TOTALS)
    return flatten(groups, advantage, token_advantage=tokens, nll_N=nll, **options)
