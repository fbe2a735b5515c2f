"""Delethink: think in chunks of a fixed size, each of which sees only the ends of what was thought before.

    prompt ── chunk 1, C tokens
    prompt ── head, tail ── chunk 2, C - m tokens        head: first K_h tokens of the whole trace
    prompt ── head, tail ── chunk 3, C - m tokens        tail: last K_t tokens of it, m = K_h + K_t

A chunk that ends by itself (EOS), or is the last, ends the trace. The carry is placed as if it had just been written:
no text is inserted. A trace thinks at most ``C + (I - 1) * (C - m)`` tokens in a context that never exceeds the prompt
and C tokens, so that cost grows linearly with thought. All chunks of a trace share one advantage.

Source: The Markovian Thinker, arXiv 2510.06557; McGill-NLP/the-markovian-thinker, ``delethink_agent_loop.py`` and
``delethink_trimmers.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ...errors import ConfigError
from ..bounds import PerPrompt
from ..driver import CallSpec, check_least, shared
from ..engines.protocol import Sampling
from ..records import Group, Segment, Stop
from .rounds import one_rollout_per_trajectory, rounds_of, stretch


@dataclass(frozen=True)
class DelethinkDriver:
    """``group_size`` traces to each prompt, decoded in chunks that carry over ``head + tail`` tokens."""

    name: ClassVar[str] = "delethink"
    flatten: ClassVar[Literal["path", "call"]] = "call"

    chunk: int = 8192
    """C: tokens of the first chunk, and of the carry and what follows it in every later one."""
    head: int = 100
    """K_h: tokens kept from the beginning of the trace."""
    tail: int = 3996
    """K_t: tokens kept from its end."""
    max_chunks: int = 5
    """I: most chunks of a trace; 1 samples flat answers of at most ``chunk`` tokens."""
    group_size: int = shared(8)
    """Traces for one prompt."""
    max_completion: int = shared(24576)
    """Longest trace in decoded tokens, over all its chunks."""
    sampling: Sampling = shared(Sampling())
    """Temperature, top-p and top-k of every chunk."""

    def __post_init__(self) -> None:
        check_least(self, chunk=1, head=0, tail=1, max_chunks=1, group_size=1, max_completion=1)
        if self.carry >= self.chunk and self.max_chunks > 1:
            raise ConfigError(
                f"a carry of {self.head} head + {self.tail} tail = {self.carry} tokens leaves "
                f"{self.chunk} - {self.carry} = {self.chunk - self.carry} of each later chunk to think in; lower "
                f"rollout.driver.head or tail to {self.chunk - 1} tokens together or less, or raise "
                "rollout.driver.chunk"
            )
        if self.longest_trace > self.max_completion:
            raise ConfigError(
                f"a trace may have {self.chunk} + ({self.max_chunks} - 1) * ({self.chunk} - {self.carry}) = "
                f"{self.longest_trace} tokens but rollout.max_completion is {self.max_completion}; lower "
                "rollout.driver.chunk or max_chunks, or raise rollout.max_completion"
            )

    @property
    def carry(self) -> int:
        """m: tokens that a later chunk begins with."""
        return self.head + self.tail

    @property
    def longest_trace(self) -> int:
        """Most tokens decoded for one trace."""
        return self.chunk + (self.max_chunks - 1) * (self.chunk - self.carry)

    @property
    def longest_context(self) -> int:
        """Most tokens after the prompt that a call ever holds."""
        return self.chunk

    @property
    def per_prompt(self) -> PerPrompt:
        """Each chunk is a row; those of a trace follow one another."""
        traces = self.group_size
        return PerPrompt(traces, traces * self.max_chunks, live=traces, decoded=traces * self.longest_trace)

    def start(self, group: Group) -> list[CallSpec]:
        """The first chunk of every trace."""
        end = len(group.segments[0])
        return [
            CallSpec(
                parent=0,
                parent_off=end,
                max_tokens=self.chunk,
                leaf=trace * self.max_chunks,
                sampling=self.sampling,
                at_limit=self._at_limit(1),
                keep=end + self.head,
            )
            for trace in range(self.group_size)
        ]

    def on_segment(self, group: Group, segment: Segment) -> list[CallSpec]:
        """The next chunk, if this one is full and not the last."""
        if segment.stop is not Stop.BUDGET:
            return []
        rounds = rounds_of(group, segment.id)
        trace = [piece for pieces in rounds for piece in pieces]
        length = sum(kept for _, kept in trace)
        head = stretch(trace, 0, self.head) if self.head else ()
        return [
            CallSpec(
                parent=0,
                parent_off=len(group.segments[0]),
                max_tokens=self.chunk - self.carry,
                leaf=(trace[0][0] - 1) * self.max_chunks + len(rounds),
                sampling=self.sampling,
                copies=(*head, *stretch(trace, length - self.tail, length)),
                at_limit=self._at_limit(len(rounds) + 1),
                keep=len(group.segments[0]) + self.head,
            )
        ]

    def finish(self, group: Group) -> Group:
        """A leaf for every chunk, a rollout for every trace."""
        return one_rollout_per_trajectory(group)

    def _at_limit(self, chunk: int) -> Stop:
        return Stop.LENGTH if chunk == self.max_chunks else Stop.BUDGET
