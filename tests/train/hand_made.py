"""Groups made by hand for tests between rollout and loss, and ranks that live in one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from laconic.rewards.verdict import Judgement, Verdict
from laconic.rollout.records import Group, Kind, Leaf, Rollout, Segment, Stop, prompt_group
from laconic.train.experience import Experience

Answers = Sequence[tuple[int, bool]]
"""(tokens, whether right) of each answer."""


def group_of(answers: Answers, number: int = 0) -> Group:
    """A prompt of two tokens and answers beside each other."""
    group = prompt_group(number, f"p{number}", [7, 8])
    sampled = [
        Segment(i + 1, 0, 2, Kind.SAMPLED, np.arange(n, dtype=np.int32), np.full(n, -0.5, np.float32), Stop.EOS)
        for i, (n, _) in enumerate(answers)
    ]
    leaves = tuple(Leaf(i, i + 1) for i in range(len(answers)))
    rollouts = tuple(Rollout((leaf.id,)) for leaf in leaves)
    return group.replace(segments=(*group.segments, *sampled), leaves=leaves, rollouts=rollouts)


def experience_of(*groups: Answers, first: int = 0, every: int = 1) -> Experience:
    """Judged groups with the ids ``first``, ``first + every``, ..."""
    made = tuple(group_of(answers, first + every * place) for place, answers in enumerate(groups))
    verdicts = [Verdict.RIGHT if right else Verdict.WRONG for answers in groups for _, right in answers]
    return Experience(made, tuple(map(Judgement, verdicts)), np.zeros(len(verdicts), bool))


class Ranks:
    """``gather`` for ranks that are asked one after another: every one of them is asked in each of two passes.

    In the first pass a rank hears only itself and its values are written down; in the second it hears all of them.
    """

    def __init__(self, count: int) -> None:
        self.values: list[list[Any]] = [[] for _ in range(count)]

    def run(self, work: Any) -> list[Any]:
        """``work(rank, gather)`` on every rank; what all of them return."""
        # What is sent may depend on what was heard before, so calls become right one after the other.
        for _ in range(8):
            before = self.values
            self.values = [[] for _ in before]
            results = [work(rank, lambda value, rank=rank, before=before: self._hear(rank, value, before)) for rank in
                       range(len(before))]  # fmt: skip
        return results

    def _hear(self, rank: int, value: Any, before: list[list[Any]]) -> list[Any]:
        call = len(self.values[rank])
        self.values[rank].append(value)
        return [value if other == rank or call >= len(sent) else sent[call] for other, sent in enumerate(before)]


def only_rewards(experience: Experience, reward_N: Sequence[float]) -> Experience:
    """The experience with these rewards and nothing known of their parts."""
    return replace(experience, reward_N=np.array(reward_N, np.float64))
