"""Outcomes: what a verifier says of one response. Never shaped, never mixed with length."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """Right, wrong, or no answer that could be read."""

    RIGHT = "right"
    WRONG = "wrong"
    UNREADABLE = "unreadable"
    """No answer found: no end of thought, no box, empty. Counts as not right."""
    TRUNCATED = "truncated"
    """Cut by the completion cap before an answer. Counts as not right."""
    TIMEOUT = "timeout"
    """The verifier did not answer in time, twice. Counts as not right, and is an alarm."""
    CRASHED = "crashed"
    """The verifier's process died on it, twice. Counts as not right, and is an alarm."""

    @property
    def right(self) -> bool:
        return self is Verdict.RIGHT


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to judge; everything is text, so that it can cross a pipe as JSON."""

    response: str
    gold: str
    verifier: str = "exact"
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the verifier said, and why."""

    verdict: Verdict
    extracted: str | None = None
    """The answer found in the response."""
    reason: str = ""
    """A short fixed phrase, such as ``no_think_end``."""
