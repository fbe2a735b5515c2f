"""Runs a driver on an engine: all groups at once, every free slot filled from whichever group has work.

    driver.start ──> CallSpec ──> segments opened ──> Request ──> engine ──> Completion ──> segment closed ──┐
                        ^                                                                                    │
                        └────────────────────────────── driver.on_segment <──────────────────────────────────┘

A call opens its segments when the driver asks for it (a copy, forced tokens, then the sampled one), so segment ids
follow the order of asking and not the order in which the engine happens to finish. An open segment is empty and has no
``stop``. No decision reads a clock: equal inputs give equal groups.

Partial rollouts: a call that has decoded ``park_after`` tokens in a generation is parked, and its group with it once no
other call of the group can go on. The next generation goes on with both, under new weights. What a parked call has
decoded is kept beside the tree, so that a driver sees the same segments whether or not its calls were parked; noise
goes on at the position where it stopped, and each token keeps the log-prob and the version of the policy that decoded
it. Which calls are parked depends on their own length alone, not on what else is decoded or how many ranks there are.
Nothing is dropped, so nothing favours short answers.

One engine decodes all calls of a group: a rank has one engine and its groups whole (``train/ranks.py``), and an engine
is one replica.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import RunError
from .driver import CallSpec, RolloutDriver, insert
from .engines.protocol import Completion, Engine, KeepsPrefixes, NoiseKey, Request
from .parked import Parked
from .records import Group, Kind, Segment, Stop, context_ids

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
    finished, _ = run_or_park(
        driver, engine, groups, seed=seed, step=step, progress=progress, max_in_flight=max_in_flight
    )
    return finished


def run_or_park(
    driver: RolloutDriver,
    engine: Engine,
    groups: Sequence[Group],
    *,
    seed: int,
    step: int,
    park_after: int = 0,
    parked: Sequence[Parked] = (),
    progress: Progress | None = None,
    max_in_flight: int | None = None,
) -> tuple[list[Group], list[Parked]]:
    """``run_groups`` that goes on with ``parked`` groups, too, and parks calls that decode ``park_after`` tokens.

    With ``park_after`` 0 none is. Returns the finished groups and those parked now, each with resumed ones first and
    else in the order given. A resumed group keeps the step, and so the random numbers, that it began with.
    """
    every = [*(one.group for one in parked), *(group.replace(step=step) for group in groups)]
    if len({group.id for group in every}) != len(every):
        raise ValueError(f"group ids must be unique within a step, got {[group.id for group in every]}")
    if max_in_flight is not None and max_in_flight < 1:
        raise ValueError(f"max_in_flight is {max_in_flight} but must be at least 1; raise it or leave it out")
    run = _Run(driver, engine, [_Open(list(group.segments), group) for group in every], seed, park_after)
    try:
        for index, one in enumerate(parked):
            run.resume(index, one.calls)
        finished = sum(run.ask(index, driver.start(every[index])) for index in range(len(parked), len(every)))
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
        run.release([group.id for group in every])
    complete = [open_group.group for open_group in run.groups if not open_group.parked]
    return complete, [open_group.park() for open_group in run.groups if open_group.parked]


@dataclass
class _Open:
    """A group in the making."""

    segments: list[Segment]
    group: Group
    depth: list[int] = field(default_factory=list)
    """Segments on the path to each segment."""
    pending: int = 0
    """Calls asked for and not yet closed, parked ones included."""
    parked: list[tuple[CallSpec, Segment]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.measure()

    def measure(self) -> None:
        """Note the depth of new segments."""
        for segment in self.segments[len(self.depth) :]:
            self.depth.append(1 + (0 if segment.parent is None else self.depth[segment.parent]))

    def snapshot(self) -> Group:
        return Group(self.group.id, self.group.problem_id, tuple(self.segments), step=self.group.step)

    def park(self) -> Parked:
        return Parked(self.snapshot(), tuple(sorted(self.parked, key=lambda call: call[1].id)))


@dataclass
class _Run:
    driver: RolloutDriver
    engine: Engine
    groups: list[_Open]
    seed: int
    park_after: int
    waiting: list[tuple[tuple[int, int, int, int], CallSpec, Segment]] = field(default_factory=list)
    """Heap of (order, spec, what is sampled so far)."""
    live: dict[int, tuple[int, CallSpec, Segment]] = field(default_factory=dict)
    """Request id -> (index of the group, spec, what was sampled before)."""
    asked: int = 0

    def ask(self, index: int, specs: Sequence[CallSpec]) -> int:
        """Open the segments of new calls and queue them; returns 1 if the group is complete, else 0."""
        open_group = self.groups[index]
        for spec in specs:
            self._queue(index, spec, self._open_segments(open_group, spec))
        if open_group.pending:
            return 0
        open_group.group = self.driver.finish(open_group.snapshot())
        open_group.group.validate()
        self.release([open_group.group.id])
        return 1

    def resume(self, index: int, calls: Sequence[tuple[CallSpec, Segment]]) -> None:
        """Queue the calls of a group that was parked."""
        for spec, begun in calls:
            self._queue(index, spec, begun)

    def _queue(self, index: int, spec: CallSpec, begun: Segment) -> None:
        open_group = self.groups[index]
        order = (spec.priority, -open_group.depth[begun.id], index, self.asked)
        heapq.heappush(self.waiting, (order, spec, begun))
        self.asked += 1
        open_group.pending += 1

    def _open_segments(self, open_group: _Open, spec: CallSpec) -> Segment:
        """Append the copy, the forced tokens and the empty sampled segment of a call; returns the last one."""
        segments, version = open_group.segments, self.engine.policy_version
        parent, kept = insert(segments, spec.parent, spec.parent_off, (*spec.copies, spec.forced), version)
        empty = Segment(len(segments), parent, kept, Kind.SAMPLED, np.empty(0, np.int32), np.empty(0, np.float32))
        segments.append(empty)
        open_group.measure()
        return empty

    def submit(self, max_in_flight: int | None) -> None:
        """Hand waiting calls to the engine, soonest first, as far as the bound allows."""
        requests = []
        while self.waiting and (max_in_flight is None or len(self.live) < max_in_flight):
            (_, _, index, request), spec, begun = heapq.heappop(self.waiting)
            segments, group = self.groups[index].segments, self.groups[index].group
            context, left = context_ids(segments, begun.id), spec.max_tokens - len(begun)
            if len(begun):
                context = np.concatenate([context, begun.ids])
            requests.append(
                Request(
                    id=request,
                    context=context,
                    max_tokens=min(left, self.park_after) if self.park_after else left,
                    sampling=spec.sampling,
                    noise=NoiseKey(self.seed, group.step, group.id, spec.leaf),
                    position=max(len(context) - len(segments[0]), 0),
                    stop_ids=spec.stop_ids,
                    tree=None if spec.keep == 0 else group.id,
                    keep=spec.keep,
                )
            )
            self.live[request] = (index, spec, begun)
        if requests:
            self.engine.submit(requests)

    def release(self, groups: Sequence[int]) -> None:
        """No call will continue these groups any more."""
        if isinstance(self.engine, KeepsPrefixes):
            self.engine.release(groups)

    def close(self, completion: Completion) -> int:
        """Fill the completion's segment and let the driver go on; returns 1 if the group is complete, else 0."""
        index, spec, begun = self.live.pop(completion.request)
        open_group = self.groups[index]
        if completion.stop is not Stop.LENGTH:
            closed = _continued(begun, completion, completion.stop)
        elif len(begun) + len(completion.ids) == spec.max_tokens:
            closed = _continued(begun, completion, spec.at_limit)
        elif self.park_after and len(completion.ids) == self.park_after:
            open_group.parked.append((spec, _continued(begun, completion, None)))
            return 0
        else:
            raise RunError(
                f"the engine ended a call for its length at {len(begun) + len(completion.ids)} tokens, but it was "
                f"asked for {spec.max_tokens}; an engine must decode what it is asked for, or name another stop"
            )
        open_group.segments[closed.id] = closed
        open_group.pending -= 1
        return self.ask(index, self.driver.on_segment(open_group.snapshot(), closed))


def _continued(begun: Segment, completion: Completion, stop: Stop | None) -> Segment:
    """What was sampled before, and the completion after it."""
    resumed = len(begun) > 0
    sampled = Segment(
        id=begun.id,
        parent=begun.parent,
        parent_off=begun.parent_off,
        kind=Kind.SAMPLED,
        ids=np.concatenate([begun.ids, completion.ids]) if resumed else completion.ids,
        logp=np.concatenate([begun.logp, completion.logp]) if resumed else completion.logp,
        stop=stop,
        policy_version=completion.policy_version,
        cost=begun.cost + completion.cost if resumed else completion.cost,
    )
    if not resumed:
        return sampled
    newest_T = np.full(len(completion.ids), completion.policy_version)
    return sampled.with_versions(np.concatenate([begun.version_T, newest_T]))
