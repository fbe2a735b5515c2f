"""Judging in worker processes that can be killed: a verdict for every item, in order, and never a hang.

    with VerifierPool(verifiers=["number"], workers=2) as pool:
        judgements = pool.judge(items)

Items go out in batches over pipes and come back one by one, which tells how long the current one has taken. If it
exceeds the deadline, or its worker dies, the worker is killed, a warm spare takes over, and the item is tried once more
with no other item beside it. If that fails too it is recorded as TIMEOUT or CRASHED. So a batch takes at most twice the
deadline for each bad item, plus the time of the good ones.

Importing this module imports no torch.
"""

from __future__ import annotations

import math
import selectors
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from ..errors import ConfigError, RunError
from .process import Garbled, Worker
from .verdict import Item, Judgement, Verdict
from .verifiers import resolve

BATCH = 128
"""Items a worker holds at most: enough to hide the latency of the pipe, few enough to share out."""
START_SECONDS = 60.0
"""Time a worker may take to start, import its verifiers and pass their self-test."""
START_FAILURES = 3
"""Workers in a row that may fail to start before the pool gives up."""


class VerifierPool:
    """Worker processes that judge. A context manager.

    On Linux the kernel ties a worker's life to the thread that started it: use a pool from the thread that made it.
    """

    def __init__(
        self,
        workers: int = 1,
        deadline: float = 5.0,
        memory_gb: float | None = 2.0,
        spare: int = 1,
        verifiers: Sequence[str] = ("exact", "number"),
    ) -> None:
        """Processes start on entering the context. Raises ``ConfigError``.

        workers: how many judge at the same time.
        deadline: seconds an item may take.
        memory_gb: limit of each worker's address space, GiB; None for no limit. Set on Linux only: macOS refuses it.
        spare: how many more processes stand by, started and tested.
        verifiers: what the items may name: ids, or ``module:function``.
        """
        if workers < 1 or spare < 0 or not deadline > 0 or not (memory_gb is None or memory_gb > 0):
            raise ConfigError(
                f"a verifier pool with workers={workers}, spare={spare}, deadline={deadline}, memory_gb={memory_gb} "
                "cannot work; it needs at least 1 worker, 0 spares, and a deadline and a memory limit above 0"
            )
        for name in verifiers:
            if ":" not in name:
                resolve(name)
        self.workers, self.deadline, self.memory_gb, self.spare = workers, deadline, memory_gb, spare
        self.verifiers = tuple(dict.fromkeys(verifiers))
        self._fleet: list[Worker] = []
        self._failed_starts = 0
        self._open = False

    def __enter__(self) -> Self:
        """Start workers and spares and wait until each has judged the known pairs of its verifiers.

        Raises ``RunError`` if a verifier judges one of them wrongly, ``ConfigError`` if one cannot be imported.
        """
        self._open = True
        try:
            self._refill()
            while not all(worker.ready for worker in self._fleet):
                self._turn(_Batch([]))
                self._refill()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill every worker. Idempotent."""
        self._open = False
        while self._fleet:
            self._fleet.pop().kill()

    def judge(self, items: Sequence[Item]) -> list[Judgement]:
        """One judgement per item, in order.

        Raises ``ConfigError`` for a verifier the pool was not started with, ``RunError`` if the pool is not open or no
        worker can be started any more.
        """
        if not self._open:
            raise RunError("the verifier pool is not running; use it as 'with VerifierPool(...) as pool:'")
        for name in {item.verifier for item in items}.difference(self.verifiers):
            raise ConfigError(
                f"an item asks for the verifier {name!r}, but the pool was started for {', '.join(self.verifiers)}; "
                "add it to VerifierPool(verifiers=...)"
            )
        batch = _Batch(items)
        try:
            for worker in tuple(self._fleet):
                self._hear(worker, batch)  # Those that ended since the last call must not get items.
            while batch.judged < len(items):
                self._refill()
                self._dispatch(batch)
                self._turn(batch)
        finally:
            # After Ctrl-C a worker still holds items; the next call must not read their replies.
            for worker in [worker for worker in self._fleet if worker.in_flight]:
                self._remove(worker)
        return [judgement for judgement in batch.judgements if judgement is not None]

    def _refill(self) -> None:
        """Start workers until the pool has its number; a new one warms up while the others work."""
        while len(self._fleet) < self.workers + self.spare:
            self._fleet.append(Worker(self.verifiers, self.memory_gb))

    def _dispatch(self, batch: _Batch) -> None:
        """Hand out items: one that failed before to an idle worker alone, the others in batches."""
        busy = sum(bool(worker.in_flight) for worker in self._fleet)
        share = min(BATCH, math.ceil(len(batch.waiting) / self.workers))
        for worker in self._fleet:
            held = len(worker.in_flight)
            if not worker.ready or held > BATCH // 2 or (worker.alone if held else busy == self.workers):
                continue
            worker.alone = not held and bool(batch.suspects)
            source, count = (batch.suspects, 1) if worker.alone else (batch.waiting, share - held)
            chosen = [source.popleft() for _ in range(min(count, len(source)))]
            if chosen:
                busy += not held
                worker.send((index, batch.items[index]) for index in chosen)

    def _turn(self, batch: _Batch) -> None:
        """Wait for replies, room in a pipe or the next deadline, and act on it."""
        timeout = max(0.0, min(map(self._expiry, self._fleet)) - time.monotonic())
        # A new selector each time: there are a few pipes, and none of a killed worker can be left in it.
        with selectors.PollSelector() as selector:
            for worker in self._fleet:
                selector.register(worker.replies, selectors.EVENT_READ, worker)
                if worker.unsent:
                    selector.register(worker.requests, selectors.EVENT_WRITE, worker)
            events = selector.select(timeout)
        for key, event in events:
            if event & selectors.EVENT_WRITE:
                key.data.flush()
        for key, event in events:
            if event & selectors.EVENT_READ:
                self._hear(key.data, batch)
        for worker in [worker for worker in self._fleet if self._expiry(worker) <= time.monotonic()]:
            # The one that slept may have been this process: look for a reply before the verdict.
            if not self._hear(worker, batch):
                self._lose(worker, batch, Verdict.TIMEOUT)

    def _expiry(self, worker: Worker) -> float:
        """When ``worker`` must have said something, on the clock of ``time.monotonic``."""
        if not worker.ready:
            return worker.since + START_SECONDS
        return worker.since + self.deadline if worker.in_flight else math.inf

    def _hear(self, worker: Worker, batch: _Batch) -> bool:
        """Take the replies of ``worker``; whether there was one, or its end."""
        try:
            replies, ended = worker.receive()
            for reply in replies:
                if worker.ready:
                    batch.record(*worker.conclude(reply))
                else:
                    self._welcome(worker, reply)
        except Garbled:
            self._lose(worker, batch, Verdict.CRASHED, "garbled_reply")
            return True
        if ended:
            self._lose(worker, batch, Verdict.CRASHED)
        return ended or bool(replies)

    def _welcome(self, worker: Worker, reply: dict[str, Any]) -> None:
        """The first words of a worker: it is ready, or says why it will never be."""
        if "config_error" in reply:
            raise ConfigError(reply["config_error"])
        if "fault" in reply:
            raise RunError(f"the self-test of the verifiers failed: {reply['fault']}; mend the verifier first")
        worker.ready, self._failed_starts = True, 0

    def _lose(self, worker: Worker, batch: _Batch, verdict: Verdict, reason: str = "") -> None:
        """Kill ``worker`` and decide about what it held: only the item it was at is suspect."""
        ending = self._remove(worker)
        reason = reason or ("deadline" if verdict is Verdict.TIMEOUT else ending)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= START_FAILURES:
                raise RunError(
                    f"{START_FAILURES} verifier workers in a row failed to start ({reason}); see their messages above, "
                    f"and raise memory_gb ({self.memory_gb}) if the verifiers import large packages"
                )
        elif worker.in_flight:
            suspect, *rest = worker.in_flight
            batch.waiting.extendleft(reversed(rest))
            if worker.alone:
                batch.record(suspect, Judgement(verdict, reason=reason))
            else:
                batch.suspects.append(suspect)

    def _remove(self, worker: Worker) -> str:
        self._fleet.remove(worker)
        return worker.kill()


class _Batch:
    """The state of one ``judge`` call; items go by their index."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.judgements: list[Judgement | None] = [None] * len(items)
        self.judged = 0
        self.waiting = deque(range(len(items)))
        self.suspects: deque[int] = deque()
        """Items whose worker was lost while it was at them, once."""

    def record(self, index: int, judgement: Judgement) -> None:
        self.judgements[index] = judgement
        self.judged += 1
