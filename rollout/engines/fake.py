"""An engine without a model, for tests: completions come from a table or a function of the context.

It keeps the protocol to the letter, costs included: contexts are cached while a request with an equal one is live, one
token of every live request is decoded per step, at most ``max_live`` at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..records import Cost, Stop
from .protocol import Completion, Request

Context = tuple[int, ...]
Script = Callable[[Context, Request], Sequence[int]]


class ScriptedEngine:
    """Implements ``Engine``; the log-prob of a scripted token is ``-(its index + 1) / 8``, exact in float32."""

    def __init__(
        self,
        script: Mapping[Context, Sequence[Sequence[int]]] | Script,
        *,
        eos_ids: Sequence[int] = (0,),
        max_live: int = 256,
        max_context: int = 1024,
    ) -> None:
        """``script``: context -> completions, handed out by ``noise.leaf`` modulo their number; or a function of
        context and request. A completion that runs out without an EOS goes on with the first EOS id.
        """
        self.script = script
        self.eos_ids = tuple(eos_ids)
        self.max_live, self.max_context = max_live, max_context
        self.policy_version = 0
        self.steps = 0
        """Steps taken so far."""
        self._queue: deque[Request] = deque()
        self._live: list[_Scripted] = []
        self._cached: set[Context] = set()

    @property
    def busy(self) -> bool:
        """Whether a request is queued or live."""
        return bool(self._queue or self._live)

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests. Raises ``ValueError`` as a real engine does."""
        for request in requests:
            if not len(request.context) or request.max_tokens < 1:
                raise ValueError(f"request {request.id} needs at least one context token and max_tokens of at least 1")
            if len(request.context) + request.max_tokens > self.max_context:
                raise ValueError(f"request {request.id} exceeds {self.max_context} positions; lower max_tokens")
        self._queue.extend(requests)

    def step(self) -> list[Completion]:
        """Admit what fits, then one token of every live request."""
        self.steps += 1
        while self._queue and len(self._live) < self.max_live:
            request = self._queue.popleft()
            context = tuple(int(token) for token in request.context)
            text = self.script(context, request) if callable(self.script) else self._entry(context, request)
            self._live.append(_Scripted(request, [*text, self.eos_ids[0]], context not in self._cached))
            self._cached.add(context)
        ended = []
        for row in list(self._live):
            row.count += 1
            stop = self._stop(row)
            if stop is not None:
                self._live.remove(row)
                ended.append(row.completion(stop, self.policy_version))
        if not self.busy:
            self._cached.clear()
        return ended

    def abort(self, requests: Sequence[int]) -> list[Completion]:
        """End requests now."""
        ended = [row.completion(Stop.ABORTED, self.policy_version) for row in self._live if row.request.id in requests]
        self._live = [row for row in self._live if row.request.id not in requests]
        for request in [request for request in self._queue if request.id in requests]:
            self._queue.remove(request)
            nothing = np.empty(0, np.int32), np.empty(0, np.float32)
            ended.append(Completion(request.id, *nothing, Stop.ABORTED, self.policy_version, Cost()))
        return ended

    def sync(self, weights: Mapping[str, Tensor] | None, version: int) -> None:
        """Drop the caches and take the version; there are no weights."""
        if self._live:
            raise RuntimeError(f"{len(self._live)} sequences are live; finish or abort them before new weights come")
        self._cached.clear()
        self.policy_version = version

    def _entry(self, context: Context, request: Request) -> Sequence[int]:
        assert isinstance(self.script, Mapping)
        if context not in self.script:
            raise KeyError(f"no completion is scripted for the context {context}; add it to the table")
        choices = self.script[context]
        return choices[request.noise.leaf % len(choices)]

    def _stop(self, row: _Scripted) -> Stop | None:
        token = row.text[row.count - 1]
        if token in self.eos_ids:
            return Stop.EOS
        if token in row.request.stop_ids:
            return Stop.STOP_TOKEN
        return Stop.LENGTH if row.count == row.request.max_tokens else None


@dataclass
class _Scripted:
    request: Request
    text: list[int]
    first: bool
    """Whether its context was not in the cache."""
    count: int = 0

    def completion(self, stop: Stop, version: int) -> Completion:
        context, count = len(self.request.context), self.count
        logp = np.arange(1, count + 1).astype(np.float32) / np.float32(-8)
        cost = Cost(
            decoded=count,
            prefilled=context if self.first else 0,
            cached=0 if self.first else context,
            kv_read=count * context + count * (count - 1) // 2,
        )
        ids = np.asarray(self.text[:count], np.int32)
        return Completion(self.request.id, ids, logp, stop, version, cost)
