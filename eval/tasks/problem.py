"""The record of one problem, and how a task hands problems out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "test"]
Message = dict[str, str]
"""One chat message: ``{"role": ..., "content": ...}``."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem with its reference answer."""

    id: str
    """Unique within its task and split."""
    prompt: str | tuple[Message, ...]
    """Text fed to the tokenizer as it is, or chat messages for the tokenizer's chat template."""
    gold: str
    """Reference answer; never empty."""
    source: str
    """The task or file it comes from."""
    level: int | None = None
    """Difficulty, where known."""
    verifier: str = "exact"
    """Id of the outcome verifier that judges answers to it (see ``laconic.rewards``)."""
    subject: str | None = None
    """Field it belongs to, where known."""
    options: tuple[int, ...] | None = None
    """Of a multiple-choice question: which option stands at each letter; option 0 is the right one."""


@dataclass(frozen=True)
class ProceduralTask:
    """A family of problems drawn from (seed, index), train and test disjoint by construction.

    A problem belongs to the test split exactly when the hash of its prompt says so; the generator redraws until the
    hash agrees with the split asked for. No list of test problems has to be kept apart from the training data.
    """

    name: str
    levels: tuple[int, ...]
    """The difficulty levels, easiest first; index i has level ``levels[i % len(levels)]``."""
    draw: Callable[[int, str], tuple[str, str]]
    """(level, entropy string) -> (prompt, gold)."""
    steps: Callable[..., list[str]]
    """``steps(prompt, noted=int)``: the written steps of one pass; the last one ends in the answer. ``noted`` maps
    every result to what gets written down, so that a slip is carried on like a real one."""
    guess: Callable[[str], str]
    """Non-empty beginning of a pass -> the best answer it supports."""

    def problem(self, split: Split, seed: int, index: int) -> Problem:
        """The problem at ``index`` of the stream ``(split, seed)``."""
        level = self.levels[index % len(self.levels)]
        attempt = 0
        while True:
            prompt, gold = self.draw(level, f"{self.name}/{split}/{seed}/{index}/{attempt}")
            if split_of(prompt) == split:
                return Problem(f"{self.name}/{split}/{seed}/{index}", prompt, gold, self.name, level)
            attempt += 1

    def problems(self, split: Split, seed: int, count: int) -> Iterator[Problem]:
        """The first ``count`` problems of the stream ``(split, seed)``."""
        return (self.problem(split, seed, index) for index in range(count))


def split_of(prompt: str) -> Split:
    """Which split a procedural prompt belongs to: one in four is test, by its hash."""
    return "test" if hashlib.blake2b(prompt.encode(), digest_size=1).digest()[0] < 64 else "train"
