"""The most that the group of one prompt can come to: what a step needs is said before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class PerPrompt:
    """Upper bounds for the group of one prompt. Answers that end early and threads that are not started need less."""

    rollouts: int
    """Of which each has an advantage."""
    rows: int
    """Leaves, of which each is a row of the training."""
    live: int
    """Calls at the same time."""
    decoded: int
    """Tokens, discarded ones included."""

    @classmethod
    def of(cls, driver: Any, answers: int, longest: int) -> Self:
        """What the driver's ``per_prompt`` says; without one, ``answers`` of ``longest`` tokens, each of one path."""
        return getattr(driver, "per_prompt", None) or cls(answers, answers, answers, answers * longest)
