"""Fork and join: a sequence lists subtasks, threads decode them side by side, their text comes back as a copy.

    prompt ── ... </Outlines> ─┬─ <Thread> 1: ... </Thread>
                               ├─ <Thread> 2: ... </Thread>                      at the same time
                               └─ copy of both ── "\\n" ── ... </Parallel> ...    decoding goes on

Formats. ``tags`` (ThreadWeaver): threads see what was written before the fork. ``calls`` (Adaptive Parallel
Reasoning): a thread sees only its item of the list, the list is cut off again, and a thread's result, or
``no_result_text``, takes its place. Any engine will do. A join is sent again as context, so all of its threads but the
first are prefilled a second time.

An answer ends where its sequence ends by itself, where a join leaves no room, and (``tags``) where a thread did not
close its tag: then the closing tags are forced and nothing more is decoded. A thread never forks.

Sources: ThreadWeaver, arXiv 2512.07843; Adaptive Parallel Reasoning, arXiv 2504.15466.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from ...errors import ConfigError
from ..bounds import PerPrompt
from ..driver import CallSpec, Piece, check_least, insert, shared
from ..engines.protocol import Sampling
from ..records import Group, Kind, Leaf, Rollout, Segment, Stop
from .fork_formats import ForkFormat, piece_size
from .threads import anchor_of, most_of_answer, spawned


@dataclass(frozen=True)
class ForkJoinDriver(ForkFormat):
    """``group_size`` answers to each prompt, parts of which are decoded in parallel."""

    name: ClassVar[str] = "fork_join"
    flatten: ClassVar[Literal["path", "call"]] = "call"

    thread_tokens: int = 0
    """Longest thread; 0 allows each what its sequence has left."""
    rounds: int = 32
    """Most calls of a sequence that may fork."""
    afterwards: Literal["stop", "sequential"] = "stop"
    """After the last round: end the answer, as published, or decode the rest without forks."""
    group_size: int = shared(8)
    """Answers to one prompt."""
    max_completion: int = shared(640)
    """Longest answer in tokens, joined threads and forced tokens included."""
    sampling: Sampling = shared(Sampling())
    """Temperature, top-p and top-k of every call."""

    def __post_init__(self) -> None:
        check_least(self, max_threads=1, rounds=1, group_size=1, max_completion=1)
        for key, limit, named in (
            ("thread_tokens", self.max_completion, "rollout.max_completion"),
            ("threads", self.max_threads, "rollout.driver.max_threads"),
        ):
            if not 0 <= getattr(self, key) <= limit:
                raise ConfigError(
                    f"rollout.driver.{key} is {getattr(self, key)} but must be 0 or up to {named}, {limit}; lower it"
                )
        if self.format == "calls" and self.threads:
            raise ConfigError(
                "rollout.driver.threads is set, but in the format 'calls' the list says what runs; drop it"
            )

    @property
    def per_prompt(self) -> PerPrompt:
        """As if every answer forked as often, and as wide, as it may."""
        threads, longest, whole = self.threads or self.max_threads, self.max_completion, self.format == "tags"
        most = self.thread_tokens or longest
        rows, tokens = most_of_answer(longest, self.rounds, threads, most, whole, whole and self.keep_markers)
        answers = self.group_size
        return PerPrompt(answers, answers * rows, live=answers * threads, decoded=answers * tokens)

    def start(self, group: Group) -> list[CallSpec]:
        """The first sequence of every answer."""
        if self.fork < 0:
            raise ConfigError("rollout.driver fork_join has no token that forks; call with_tokenizer first")
        end = len(group.segments[0])
        return [call for root in range(self.group_size) for call in self._sequence(group, 0, end, (), root, 0)]

    def on_segment(self, group: Group, segment: Segment) -> list[CallSpec]:
        """Threads after a fork; the sequence again after the last of its threads."""
        children, anchor = spawned(group), anchor_of(group, segment)
        tip = group.segments[anchor]
        if not anchor or segment.id not in self._threads_of(tip, children):
            if segment.stop is not Stop.STOP_TOKEN:
                return []
            tip = segment
            if starts := self.starts(tip):
                return self._spawn(group, tip, starts, *self._lineage(group, tip))
        if any(group.segments[thread].stop is None for thread in self._threads_of(tip, children)):
            return []
        pieces, closing = self._join(group, tip, children)
        root, step = self._lineage(group, tip)
        if closing:
            return []
        joined = (self.joined,) if self._threads_of(tip, children) else ()
        return self._sequence(group, tip.id, self.kept(tip), (*pieces, *joined), root, step + 1)

    def finish(self, group: Group) -> Group:
        """A rollout per answer: a leaf for each end of decoding off its path, and last the answer itself."""
        segments, children = list(group.segments), spawned(group)
        tips = list(children.get(0, []))
        for number, tip in enumerate(tips):
            while len(children.get(tip, [])) > len(self._threads_of(segments[tip], children)):
                tip = children[tip][-1]
            tips[number] = self._close(group, segments, segments[tip], children)
        continued = {(s.parent, s.parent_off) for s in segments}
        ends: list[list[int]] = [[] for _ in tips]
        for segment in group.segments:
            if segment.kind is Kind.SAMPLED and (segment.id, len(segment)) not in continued and segment.id not in tips:
                ends[self._lineage(group, segment)[0]].append(segment.id)
        leaves: list[Leaf] = []
        rollouts = []
        for off_path, tip in zip(ends, tips, strict=True):
            mine = [Leaf(len(leaves) + at, end) for at, end in enumerate([*off_path, tip])]
            rollouts.append(Rollout(tuple(leaf.id for leaf in mine)))
            leaves += mine
        return group.replace(segments=tuple(segments), leaves=tuple(leaves), rollouts=tuple(rollouts))

    def _threads_of(self, tip: Segment, children: Mapping[int, Sequence[int]]) -> Sequence[int]:
        return children.get(tip.id, [])[: len(self.starts(tip))]

    def _spawn(self, group: Group, tip: Segment, starts: list[Piece], root: int, step: int) -> list[CallSpec]:
        """All threads of a fork, or none: a fork without room for its headers ends the answer."""
        parent, kept = (0, 0) if self.format == "calls" else (tip.id, self.kept(tip))
        specs = []
        for rank, begin in enumerate(starts):
            pieces = (begin, self.child) if self.format == "calls" else (begin,)
            specs += self._call(group, parent, kept, pieces, self._stream(root, step, rank + 1), self.thread_end)
        return specs if len(specs) == len(starts) else []

    def _sequence(
        self, group: Group, parent: int, kept: int, pieces: tuple[Piece, ...], root: int, step: int
    ) -> list[CallSpec]:
        stops = (self.fork,) if step < self.rounds else ()
        return self._call(group, parent, kept, pieces, self._stream(root, step, 0), stops)

    def _call(
        self, group: Group, parent: int, kept: int, pieces: tuple[Piece, ...], stream: int, stops: tuple[int, ...]
    ) -> list[CallSpec]:
        """One call with what is left of the answer, or none where nothing is."""
        before = self._response(group, parent, kept) + sum(piece_size(piece) for piece in pieces)
        left = self.max_completion - before
        is_thread = stream % (self.max_threads + 1) > 0
        limit = min(self.thread_tokens or left, left) if is_thread else left
        if limit < 1:
            return []
        meaning = Stop.BUDGET if limit < left else Stop.LENGTH
        call = CallSpec(parent, kept, limit, stream, self.sampling, stop_ids=stops, copies=pieces, at_limit=meaning)
        return [call]

    def _join(
        self, group: Group, tip: Segment, children: Mapping[int, Sequence[int]]
    ) -> tuple[tuple[Piece, ...], Stop | None]:
        """What comes between a fork and the rest, and why there is no rest (None: decoding goes on)."""
        threads = [group.segments[number] for number in self._threads_of(tip, children)]
        pieces, stops = self.returned(group, threads)
        _, step = self._lineage(group, tip)
        size = self._response(group, tip.id, self.kept(tip)) + sum(
            piece_size(piece) for piece in (*pieces, self.joined)
        )
        if stops:
            return pieces, Stop.EOS if set(stops) == {Stop.EOS} else Stop.LENGTH
        if size >= self.max_completion:
            return pieces, Stop.LENGTH
        return pieces, Stop.JOINED if self.afterwards == "stop" and step + 1 >= self.rounds else None

    def _close(self, group: Group, segments: list[Segment], tip: Segment, children: Mapping[int, Sequence[int]]) -> int:
        """The last segment of an answer; one that ends in a join gets the join's text and the closing tags."""
        if not self._threads_of(tip, children):
            return tip.id
        pieces, closing = self._join(group, tip, children)
        last, _ = insert(segments, tip.id, self.kept(tip), (*pieces, self.close), tip.policy_version)
        if last == tip.id:  # empty threads and no closing tag
            return last
        segments[last] = replace(segments[last], stop=closing)
        return last

    def _lineage(self, group: Group, segment: Segment) -> tuple[int, int]:
        """(answer, calls between it and the segment)."""
        step = 0
        while anchor := anchor_of(group, segment):
            segment, step = group.segments[anchor], step + 1
        return segment.id - 1, step

    def _stream(self, root: int, step: int, rank: int) -> int:
        return (root * (self.rounds + 1) + step) * (self.max_threads + 1) + rank

    def _response(self, group: Group, segment: int, kept: int) -> int:
        """Tokens after the prompt up to ``kept`` of a segment; a context of its own has no prompt."""
        pieces = group.path(segment)
        return sum(size for _, size in pieces[1:-1]) + (kept if segment else 0)
