"""Budget forcing (s1): thinking is cut at a budget, and a thought that ends early is told to wait.

    thought ──────────────── budget ── </think> cue ── answer           at most: the end of thought is forced
    thought ── </think>                                                 at least: the end is taken off again,
            └─ Wait ── thought ── </think> ── answer                    ``ignores`` times

The budget counts decoded tokens of thought that stay on the path. Forced tokens are never trained, nor is an end of
thought that was taken off. A thought that ends with EOS is an answer as it is. An end of thought right after "Wait" is
taken off as well and uses up one of the ignores; the published sampler bans it there, which makes that one token's
distribution another than the model's.

Source: s1: Simple test-time scaling, arXiv 2501.19393.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np

from ...errors import ConfigError
from ..driver import CallSpec, check_least, shared
from ..engines.protocol import Sampling
from ..records import Group, Kind, Leaf, Rollout, Segment, Stop
from .markers import marker_ids, stop_id


@dataclass(frozen=True)
class BudgetForceDriver:
    """``group_size`` answers to each prompt, with at least ``ignores`` second thoughts within a budget."""

    name: ClassVar[str] = "budget_force"
    flatten: ClassVar[Literal["path", "call"]] = "path"

    thinking_tokens: int = 32000
    """Most tokens of thought; forced ones do not count."""
    ignores: int = 1
    """How often an end of thought is taken off and ``wait_text`` put in its place; 0 only caps the thought."""
    think_end_text: str = "</think>"
    """Ends a thought; one token."""
    wait_text: str = "Wait"
    """Forced in place of an end of thought that is ignored."""
    answer_text: str = ""
    """Forced after an end of thought that was itself forced, such as "Final Answer:"."""
    think_end: tuple[int, ...] = shared(())
    wait: tuple[int, ...] = shared(())
    answer: tuple[int, ...] = shared(())
    """Token ids of the three texts; ``with_tokenizer`` fills them in."""
    group_size: int = shared(8)
    """Answers to one prompt."""
    max_completion: int = shared(32768)
    """Longest path in tokens: thought, forced tokens and answer."""
    sampling: Sampling = shared(Sampling())
    """Temperature, top-p and top-k of thought and answer."""

    def __post_init__(self) -> None:
        check_least(self, thinking_tokens=1, ignores=0, group_size=1, max_completion=1)
        forced = self.ignores * len(self.wait) + len(self.think_end) + len(self.answer)
        rest = self.max_completion - self.thinking_tokens - forced
        if rest < 1:
            raise ConfigError(
                f"rollout.max_completion {self.max_completion} - {self.thinking_tokens} thinking - {forced} forced "
                f"tokens leave {rest} for an answer; lower rollout.driver.thinking_tokens or raise "
                "rollout.max_completion"
            )

    def with_tokenizer(self, tokenizer: Any) -> Self:
        """The driver with its markers as token ids. Raises ``ConfigError`` for markers that cannot work."""
        end = stop_id(tokenizer, self.think_end_text, "rollout.driver.think_end_text")
        wait = marker_ids(tokenizer, self.wait_text, "rollout.driver.wait_text") if self.ignores else ()
        answer = marker_ids(tokenizer, self.answer_text, "rollout.driver.answer_text")
        if end in (*wait, *answer):
            raise ConfigError(
                f"rollout.driver.wait_text {self.wait_text!r} and answer_text {self.answer_text!r} must not hold "
                f"{self.think_end_text!r}: a thought ends exactly once"
            )
        if self.ignores and not wait:
            raise ConfigError(
                f"rollout.driver.ignores is {self.ignores} but wait_text is empty, so that the end of thought would be "
                "sampled again from the same context; give wait_text, or set ignores to 0"
            )
        return replace(self, think_end=(end,), wait=wait, answer=answer)

    def start(self, group: Group) -> list[CallSpec]:
        """One call per answer, up to the end of thought or the budget."""
        if not self.think_end or (self.ignores and not self.wait):
            raise ConfigError("rollout.driver budget_force has no tokens for its markers; call with_tokenizer first")
        end = len(group.segments[0])
        return [self._think(0, end, self.thinking_tokens, index) for index in range(self.group_size)]

    def on_segment(self, group: Group, segment: Segment) -> list[CallSpec]:
        """After a thought: another one, or the answer. After an answer: nothing."""
        path = group.path(segment.id)[1:]
        if segment.stop not in (Stop.STOP_TOKEN, Stop.BUDGET) or self._ended(path[:-1]):
            return []
        stream, length = path[0][0].id - 1, len(segment)
        if segment.stop is Stop.BUDGET:
            return [self._answer(path, stream, (*self.think_end, *self.answer))]
        waits = sum(piece.kind is Kind.FORCED for piece, _ in path)
        left = self.thinking_tokens - (sum(kept for piece, kept in path if piece.kind is Kind.SAMPLED) - 1)
        if waits < self.ignores:
            return [self._think(segment.id, length - 1, left, stream, self.wait)]
        return [self._answer(path, stream, ())]

    def finish(self, group: Group) -> Group:
        """A leaf and a rollout for every answer, without those that were aborted."""
        ends: dict[int, int] = {}
        for segment in group.segments:
            if segment.kind is Kind.SAMPLED:
                ends[group.path(segment.id)[1][0].id] = segment.id
        kept = [end for _, end in sorted(ends.items()) if group.segments[end].stop is not Stop.ABORTED]
        return group.replace(
            leaves=tuple(Leaf(index, end) for index, end in enumerate(kept)),
            rollouts=tuple(Rollout((index,)) for index in range(len(kept))),
        )

    def _think(self, parent: int, kept: int, limit: int, stream: int, forced: tuple[int, ...] = ()) -> CallSpec:
        return CallSpec(
            parent=parent,
            parent_off=kept,
            max_tokens=limit,
            leaf=stream,
            sampling=self.sampling,
            stop_ids=self.think_end,
            forced=np.array(forced, np.int32),
            at_limit=Stop.BUDGET,
        )

    def _answer(self, path: list[tuple[Segment, int]], stream: int, forced: tuple[int, ...]) -> CallSpec:
        length = sum(kept for _, kept in path) + len(forced)
        last, kept = path[-1]
        return CallSpec(
            last.id, kept, self.max_completion - length, stream, self.sampling, forced=np.array(forced, np.int32)
        )

    def _ended(self, path: list[tuple[Segment, int]]) -> bool:
        """Whether the thought has ended on this path; an end that was taken off is not on it."""
        return any(self.think_end[0] in piece.ids[:kept] for piece, kept in path)
