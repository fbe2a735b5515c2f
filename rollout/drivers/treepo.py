"""Segment tree: answers are decoded in segments, and live paths branch at the ends of segments.

    prompt ─┬─ s tokens ─┬─ s tokens ─┬─ ...          a level: all live paths of the group, one segment each
            │            │            └─ ... eos
            │            └─ ... eos                   finished; its share of the width goes to live paths
            └─ s tokens ─┬─ ...
                 ╎       └─ ...
                 └╌╌╌╌╌╌╌╌╌ s tokens ─ ... eos        fallback: none lives, answers are missing, one is cut back

A path ends, first match wins: repetition (``repetition: first``), an answer in a box, the end of text, the completion
cap, the last level, repetition. A level waits for the paths of its own group only. The widths of the levels are
``tree_width``'s, fallback is ``tree_fallback``'s. Everything is read off the group's segments; a driver keeps no state.

A leaf weighs the product of 1 / children along its path, so that the weighted mean score is unbiased although paths
that end early have fewer leaves. Fallback breaks this, so leaves that it adds weigh 0.

Source: TreePO, arXiv 2508.17445, and its code (multimodal-art-projection/TreePO).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, Self

from ..driver import CallSpec
from ..records import Group, Leaf, Rollout, Segment, Stop
from .tree_fallback import Ending, Finished, cut_back, order
from .tree_paths import (
    branching_weights,
    generator,
    place,
    response_length,
    response_logp,
    response_text,
    tips,
)
from .tree_settings import TreeSettings
from .tree_text import has_box, loops
from .tree_width import affordable, allot, level_total

Place = tuple[int, int]
"""Where a call starts: (segment, tokens kept of it)."""

_WIDTH, _PICK, _FIRST = range(3)
"""Purposes of the driver's own draws."""
_LOOK_BACK = 512
"""Tokens at a path's end that are searched for loops, at least: the published segment."""


@dataclass(frozen=True)
class TreePODriver(TreeSettings):
    """``group_size`` answers to each prompt, which share their beginnings."""

    name: ClassVar[str] = "treepo"
    flatten: ClassVar[Literal["path", "call"]] = "path"

    def with_tokenizer(self, tokenizer: Any) -> Self:
        """The driver with the text of paths, which the rules for boxes and repetition need."""
        return replace(self, decode=tokenizer.decode)

    def start(self, group: Group) -> list[CallSpec]:
        """The paths of the first level."""
        self.check_decode()
        return self._calls(group, [(0, len(group.segments[0]))] * self._first_width(group))

    def on_segment(self, group: Group, segment: Segment) -> list[CallSpec]:
        """The next level once the group's last call of this one is closed. An aborted call ends the group's growth."""
        if any(one.stop is None or one.stop is Stop.ABORTED for one in reversed(group.segments[1:])):
            return []
        live = [tip for tip in tips(group) if self._lives(group, tip)]
        return self._calls(group, self._level(group, live) if live else self._fallback(group))

    def finish(self, group: Group) -> Group:
        """A leaf and a rollout of its own for each answer, those dropped as too short left out (unless all are)."""
        closed = [tip for tip in tips(group) if tip.stop not in (None, Stop.ABORTED)]
        ended = [tip for tip in closed if not self._lives(group, tip)]
        leaves = [tip.id for tip in ended if self._kept(group, tip)] or [tip.id for tip in ended]
        weights = branching_weights(group, leaves, self._waves(group)[1])
        stops = {tip: self._stop(group, group.segments[tip]) for tip in leaves}
        return group.replace(
            segments=tuple(replace(s, stop=stops.get(s.id, s.stop)) for s in group.segments),
            leaves=tuple(Leaf(i, tip, weight) for i, (tip, weight) in enumerate(zip(leaves, weights, strict=True))),
            rollouts=tuple(Rollout((index,)) for index in range(len(leaves))),
        )

    def ending(self, group: Group, tip: Segment) -> Ending | None:
        """How the path of a closed segment ended; None if it goes on."""
        if self.repetition == "first" and self._loops(group, tip):
            return Ending.REPETITION
        if tip.stop is Stop.EOS or self.answer == "boxed_as_eos":
            if self.looks_for_boxes and has_box(response_text(group, tip.id, self.decode)):
                return Ending.ANSWERED
            if tip.stop is Stop.EOS:
                return Ending.EOS
        if tip.stop is Stop.LENGTH:
            full = response_length(group, tip.id, len(tip)) >= self.max_completion
            return Ending.LENGTH if full else Ending.DEPTH
        return Ending.REPETITION if self.repetition == "last" and self._loops(group, tip) else None

    def _level(self, group: Group, live: Sequence[Segment]) -> list[Place]:
        """Every live path once, and the branches that the width allows."""
        total = self._total(group, live, self._waves(group)[0])
        logps = [response_logp(group, tip.id) for tip in live]
        shares = allot(self.divergence, logps, total, self.segment, self.divergence_temperature)
        return [(tip.id, len(tip)) for tip, share in zip(live, shares, strict=True) for _ in range(share)]

    def _total(self, group: Group, live: Sequence[Segment], first_now: int) -> int:
        """Branches of the next level; ``first_now``: the first segment of the one that just ended."""
        alive = {tip.id for tip in live}
        finished = [tip for tip in tips(group) if tip.id not in alive and self._kept(group, tip)]
        each = sum(response_length(group, tip.id, len(tip)) for tip in live) / len(live) + self.segment
        width = self.branches(partial(generator, self.seed, group, _WIDTH))
        now = sum(tip.id >= first_now for tip in finished)
        wanted = width if self.level_tokens else width * (now + len(live))
        return level_total(wanted, self._cap(group, finished, each), len(finished), len(live))

    def _fallback(self, group: Group) -> list[Place]:
        """Copies of finished paths, cut back, for the answers that are missing."""
        ended = tips(group)
        kept = [tip for tip in ended if self._kept(group, tip)]
        # as many dropped as wanted: shorter ones are what this policy writes, and there would be no end
        if self.fallback == "no_fallback" or len(ended) - len(kept) >= self.group_size:
            return []
        lengths = {tip.id: response_length(group, tip.id, len(tip)) for tip in kept}
        each = sum(lengths.values()) / max(len(kept), 1)
        missing = self._cap(group, kept, each or self.segment) - len(kept)
        rng = generator(self.seed, group, _PICK)
        finished = [Finished(tip.id, self.ending(group, tip) or Ending.EOS, lengths[tip.id]) for tip in kept]
        places: list[Place] = []
        for pick in order(finished, self.fallback_from, self.fallback_least * self.window, rng):
            at = 0
            if pick.tokens >= self.window:
                logp = response_logp(group, pick.segment)
                at = cut_back(logp, self.fallback, self.window, self.fallback_windows, self.fallback_block, rng)
                at = min(at, self.segment * (self.depth - 1))
            places += [place(group, pick.segment, at)] * self.branches(lambda: rng)
            if len(places) >= missing or self.fallback == "from_start":
                break
        places = places or [(0, len(group.segments[0]))] * self.branches(lambda: rng)
        return places[: max(missing, 0)]

    def _waves(self, group: Group) -> tuple[int, int]:
        """Where the calls asked for last begin, and those of the first fallback: ids of segments.

        Found by repeating what was decided, because a branch and a cut back to its beginning look the same. A path
        that lived then has a segment after it now.
        """
        ended = {tip.id for tip in tips(group)}
        start, stop, first_fallback = 1, 1 + self._first_width(group), len(group.segments)
        while stop < len(group.segments):
            before = group.replace(segments=group.segments[:stop])
            if live := [tip for tip in tips(before) if tip.id not in ended]:
                count = self._total(before, live, start)
            else:
                count, first_fallback = len(self._fallback(before)), min(first_fallback, stop)
            start, stop = stop, stop + count
        return start, first_fallback

    def _calls(self, group: Group, places: Sequence[Place]) -> list[CallSpec]:
        calls = []
        for index, (parent, kept) in enumerate(places, start=len(group.segments)):
            at = response_length(group, parent, kept)
            tokens = min(self.segment, self.max_completion - at)
            last = at + tokens == self.max_completion or at > self.segment * (self.depth - 2)
            limit = Stop.LENGTH if last else Stop.BUDGET
            calls.append(CallSpec(parent, kept, tokens, index, self.sampling, at_limit=limit))
        return calls

    def _first_width(self, group: Group) -> int:
        low, high = self.first_width
        rng = partial(generator, self.seed, group.replace(segments=group.segments[:1]), _FIRST)
        width = int(rng().integers(low, high + 1)) if high > self.width else self.branches(rng)
        return min(width, self.group_size)

    def _cap(self, group: Group, finished: Sequence[Segment], tokens_each: float) -> int:
        """Answers that the group may have in all."""
        if not self.token_budget:
            return self.group_size
        spent = sum(response_length(group, tip.id, len(tip)) for tip in finished)
        return affordable(self.token_budget, spent, tokens_each, len(finished), self.least_answers, self.group_size)

    def _lives(self, group: Group, tip: Segment) -> bool:
        return tip.stop is Stop.BUDGET and self.ending(group, tip) is None

    def _kept(self, group: Group, tip: Segment) -> bool:
        return not self.min_answer or response_length(group, tip.id, len(tip)) >= self.min_answer

    def _loops(self, group: Group, tip: Segment) -> bool:
        return loops(response_text(group, tip.id, self.decode, max(_LOOK_BACK, self.segment)))

    def _stop(self, group: Group, tip: Segment) -> Stop | None:
        """What a leaf's stop says: a limit of the tree's is none of the answer's."""
        if tip.stop is not Stop.BUDGET and self.repetition != "first":
            return tip.stop
        if self.ending(group, tip) is Ending.REPETITION:
            return Stop.REPETITION
        return Stop.STOP_TOKEN if tip.stop is Stop.BUDGET else tip.stop
