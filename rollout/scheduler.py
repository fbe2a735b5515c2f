"""Runs a driver on an engine: all groups at once, every free slot filled from whichever group has work.

    driver.start ──> CallSpec ──> segments opened ──> Request ──> engine ──> Completion ──> segment closed ──┐
                        ^                                                                                    │
                        └────────────────────────────── driver.on_segment <──────────────────────────────────┘

A call opens its segments when the driver asks for it (a copy, forced tokens, then the sampled one), so segment ids
follow the order of asking and not the order in which the engine happens to finish. An open segment is empty and has no
``stop``. No decision reads a clock: equal inputs give equal groups.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import RunError
from .driver import CallSpec, RolloutDriver, insert
from .engines.protocol import Completion, Engine, KeepsPrefixes, NoiseKey, Request
from .records import Group, Kind, Segment, Stop

Progress = Callable[[int, int], None]
"""Called after an engine step in which calls ended: (tokens decoded by them, groups that became complete)."""


def run_groups(
    driver: RolloutDriver,
    engine: Engine,
    groups: Sequence[Group],
    *,
    seed: int,
    step: int,
    progress: Progress | None = None,
    max_in_flight: int | None = None,
) -> list[Group]:
    """Roll out ``groups``, each holding only its prompt; returns them finished, in the same order.

    Calls go to the engine by (priority, deepest first, group, order of asking). ``max_in_flight`` bounds how many
    requests the engine holds at a time, so that late deep calls can overtake waiting shallow ones; None submits a
    call as soon as it is asked for. ``seed`` and ``step`` name the random numbers together with group and leaf.

    Raises ``ValueError`` for group ids that are not unique and for a finished group that breaks an invariant, and
    ``RunError`` for an engine that goes idle without having answered every request. Any exception, Ctrl-C included,
    aborts the live requests before it propagates.
    """
    if len({group.id for group in groups}) != len(groups):
        raise ValueError(f"group ids must be unique within a step, got {[group.id for group in groups]}")
    if max_in_flight is not None and max_in_flight < 1:
        raise ValueError(f"max_in_flight is {max_in_flight} but must be at least 1; raise it or leave it out")
    run = _Run(driver, engine, [_Open(list(group.segments), group) for group in groups], seed, step)
    try:
        finished = sum(run.ask(index, driver.start(group)) for index, group in enumerate(groups))
        if progress is not None and finished:
            progress(0, finished)
        while run.waiting or run.live:
            run.submit(max_in_flight)
            completions = sorted(engine.step(), key=lambda completion: completion.request)
            if not completions and not engine.busy:
                lost = ", ".join(map(str, sorted(run.live)[:5]))
                raise RunError(
                    f"the engine is idle but {len(run.live)} requests have no completion (ids {lost}, five at most), "
                    "so the step can never end; an engine must complete every request it was given, or raise"
                )
            finished = sum(run.close(completion) for completion in completions)
            if progress is not None and completions:
                progress(sum(completion.cost.decoded for completion in completions), finished)
    except BaseException:
        engine.abort(list(run.live))
        raise
    finally:
        run.release([group.id for group in groups])
    return [open_group.group for open_group in run.groups]


@dataclass
class _Open:
    """A group in the making."""

    segments: list[Segment]
    group: Group
    pending: int = 0
    """Calls asked for and not yet closed."""

    def snapshot(self) -> Group:
        return self.group.replace(segments=tuple(self.segments))


@dataclass
class _Run:
    driver: RolloutDriver
    engine: Engine
    groups: list[_Open]
    seed: int
    step: int
    waiting: list[tuple[tuple[int, int, int, int], CallSpec, int]] = field(default_factory=list)
    """Heap of (order, spec, sampled segment)."""
    live: dict[int, tuple[int, int, CallSpec]] = field(default_factory=dict)
    """Request id -> (index of the group, sampled segment, spec)."""
    asked: int = 0

    def ask(self, index: int, specs: Sequence[CallSpec]) -> int:
        """Open the segments of new calls and queue them; returns 1 if the group is complete, else 0."""
        open_group = self.groups[index]
        for spec in specs:
            segment = self._open_segments(open_group, spec)
            depth = len(open_group.snapshot().path(segment))
            heapq.heappush(self.waiting, ((spec.priority, -depth, index, self.asked), spec, segment))
            self.asked += 1
            open_group.pending += 1
        if open_group.pending:
            return 0
        open_group.group = self.driver.finish(open_group.snapshot())
        open_group.group.validate()
        self.release([open_group.group.id])
        return 1

    def _open_segments(self, open_group: _Open, spec: CallSpec) -> int:
        """Append the copy, the forced tokens and the empty sampled segment of a call; returns the last one's id."""
        segments, version = open_group.segments, self.engine.policy_version
        parent, kept = insert(segments, spec.parent, spec.parent_off, (*spec.copies, spec.forced), version)
        empty = Segment(len(segments), parent, kept, Kind.SAMPLED, np.empty(0, np.int32), np.empty(0, np.float32))
        segments.append(empty)
        return empty.id

    def submit(self, max_in_flight: int | None) -> None:
        """Hand waiting calls to the engine, soonest first, as far as the bound allows."""
        requests = []
        while self.waiting and (max_in_flight is None or len(self.live) < max_in_flight):
            (_, _, index, request), spec, segment = heapq.heappop(self.waiting)
            open_group = self.groups[index]
            context = open_group.snapshot().context_ids(segment)
            requests.append(
                Request(
                    id=request,
                    context=context,
                    max_tokens=spec.max_tokens,
                    sampling=spec.sampling,
                    noise=NoiseKey(self.seed, self.step, open_group.group.id, spec.leaf),
                    position=max(len(context) - len(open_group.segments[0]), 0),
                    stop_ids=spec.stop_ids,
                    tree=None if spec.keep == 0 else open_group.group.id,
                    keep=spec.keep,
                )
            )
            self.live[request] = (index, segment, spec)
        if requests:
            self.engine.submit(requests)

    def release(self, groups: Sequence[int]) -> None:
        """No call will continue these groups any more."""
        if isinstance(self.engine, KeepsPrefixes):
            self.engine.release(groups)

    def close(self, completion: Completion) -> int:
        """Fill the completion's segment and let the driver go on; returns 1 if the group is complete, else 0."""
        index, segment, spec = self.live.pop(completion.request)
        open_group = self.groups[index]
        opened = open_group.segments[segment]
        closed = Segment(
            id=segment,
            parent=opened.parent,
            parent_off=opened.parent_off,
            kind=Kind.SAMPLED,
            ids=completion.ids,
            logp=completion.logp,
            stop=spec.at_limit if completion.stop is Stop.LENGTH else completion.stop,
            policy_version=completion.policy_version,
            cost=completion.cost,
        )
        open_group.segments[segment] = closed
        open_group.pending -= 1
        return self.ask(index, self.driver.on_segment(open_group.snapshot(), closed))
