"""What past rollouts say about each problem: its solve rate, and the mean norm of its right answers.

    right_i   <- memory * right_i   + right answers of a round
    sampled_i <- memory * sampled_i + answers of a round
    norm_i    <- memory * norm_i    + sum of norms of the right answers of a round
    rate = right_i / sampled_i,  norm = norm_i / right_i (0 without a right answer)

A problem that comes by without being sampled is discounted as well, and one with less than ``LEAST`` answers left is
forgotten. So a verdict about a problem never stands for ever: after a few epochs it gets another look.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .base import Outcome

LEAST = 1.0
"""Discounted answers below which a problem counts as unknown."""


class SolveRates:
    """Discounted counts of answers by problem."""

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self._counts: dict[int, tuple[float, float, float]] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def __iter__(self) -> Iterator[int]:
        """The known problems, in the order in which they became known."""
        return iter(self._counts)

    def see(self, outcome: Outcome) -> None:
        """Take the outcome of a round in."""
        right, sampled, norm = self._counts.get(outcome.problem, (0.0, 0.0, 0.0))
        self._keep(
            outcome.problem,
            self.memory * right + outcome.right,
            self.memory * sampled + outcome.sampled,
            self.memory * norm + outcome.norm,
        )

    def pass_over(self, problem: int) -> None:
        """It came by and was not sampled."""
        if problem in self._counts:
            self._keep(problem, *(self.memory * value for value in self._counts[problem]))

    def rate(self, problem: int) -> float | None:
        """Share of right answers; None where it is unknown."""
        if problem not in self._counts:
            return None
        right, sampled, _ = self._counts[problem]
        return right / sampled

    def norm(self, problem: int) -> float:
        """Mean norm of the right answers; 0 without one."""
        right, _, norm = self._counts.get(problem, (0.0, 0.0, 0.0))
        return norm / right if right else 0.0

    def means(self) -> tuple[float, float] | None:
        """Mean rate of all known problems, and mean norm of those with a right answer; None where none is known."""
        if not self._counts:
            return None
        norms = [norm / right for right, _, norm in self._counts.values() if right]
        rates = [right / sampled for right, sampled, _ in self._counts.values()]
        return sum(rates) / len(rates), sum(norms) / max(1, len(norms))

    def state_dict(self) -> dict[str, Any]:
        """Counts by problem, ready for JSON."""
        return {str(problem): list(counts) for problem, counts in self._counts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved counts."""
        self._counts = {int(problem): (right, sampled, norm) for problem, (right, sampled, norm) in state.items()}

    def _keep(self, problem: int, right: float, sampled: float, norm: float) -> None:
        if sampled < LEAST:
            self._counts.pop(problem, None)
        else:
            self._counts[problem] = (right, sampled, norm)
