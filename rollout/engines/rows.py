"""The host's side of the embedded engine: which sequence sits in which slot, and what has been sampled for it.

A record holds everything known of one live sequence; slots point to records, so moving a sequence to another slot moves
one integer here. All arrays are NumPy: a step reads and writes them with one indexed operation each, never row by row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..noise import stream_key, uniforms
from ..records import Cost, Ids, Logps, Stop
from .prefixes import Layers
from .protocol import Completion, Request, Sampling

# Shapes: R records, S slots, N rows of a step, V vocabulary, C tokens a completion may have

I64 = NDArray[np.int64]
_NOISE_BLOCK = 64
_STOPS = (Stop.EOS, Stop.STOP_TOKEN, Stop.LENGTH)
_NONE = -1


@dataclass(slots=True, eq=False)
class Call:
    """A request on its way through the engine."""

    request: Request
    key: bytes
    """Identity of the context."""
    prefilled: int = 0
    """Context tokens computed by a prefill on behalf of this call; its siblings find them in the cache.

    A last token that the first decode step reads is none of them: it costs no more than had the segment gone on.
    """
    kept: Layers | None = None
    """While it waits for a slot: KV of its context but for the last token, which its first decode step reads."""
    context: int = field(init=False)
    """Tokens of its context."""
    end: int = field(init=False)
    """Positions the sequence may come to."""

    def __post_init__(self) -> None:
        self.context = len(self.request.context)
        self.end = self.context + self.request.max_tokens

    def completion(self, ids: Ids, logp: Logps, stop: Stop, version: int, admitted: bool = True) -> Completion:
        """The answer, with its cost."""
        context, decoded = self.context, len(ids)
        return Completion(
            request=self.request.id,
            ids=ids,
            logp=logp,
            stop=stop,
            policy_version=version,
            cost=Cost(
                decoded=decoded,
                prefilled=self.prefilled,
                cached=max(context - self.prefilled, 0) if admitted else 0,
                kv_read=decoded * context + decoded * (decoded - 1) // 2,
            ),
        )


class Rows:
    """Slots 0..used-1, some of them holes for a moment, and the records behind them."""

    def __init__(self, eos_ids: Sequence[int], vocabulary: int) -> None:
        self._eos_ids = [token for token in eos_ids if token < vocabulary]
        self._vocabulary = vocabulary
        self.reset()

    def reset(self) -> None:
        """Forget all records; there must be no live sequence."""
        self.used = 0
        self.samplings: list[Sampling] = []
        self._holes: list[int] = []
        self._calls: list[Call | None] = []
        self._free: list[int] = []
        self._stop_sets: dict[tuple[int, ...], int] = {}
        self._stop_table = np.empty((0, self._vocabulary), np.int8)
        self.record = np.empty(0, np.int64)
        self.length, self.last, self.sampling = (np.empty(0, np.int64) for _ in range(3))
        self._count, self._cap, self._stop_set, self._position = (np.empty(0, np.int64) for _ in range(4))
        self._key = np.empty(0, np.uint64)
        self._noise = np.empty((0, _NOISE_BLOCK))
        self._ids, self._logp = np.empty((0, 0), np.int32), np.empty((0, 0), np.float32)

    @property
    def live(self) -> int:
        """Sequences being decoded."""
        return self.used - len(self._holes)

    @property
    def tokens(self) -> int:
        """Tokens whose KV live sequences have."""
        holes = set(self._holes)
        return sum(int(self.length[self.record[slot]]) for slot in range(self.used) if slot not in holes)

    def longest_end(self) -> int:
        """Positions the longest live sequence may come to; 0 without one."""
        return max((call.end for call in self._calls if call is not None), default=0)

    def slots_of(self, requests: Iterable[int]) -> list[int]:
        """Slots in which these requests are live."""
        wanted, holes = set(requests), set(self._holes)
        live = [slot for slot in range(self.used) if slot not in holes]
        return [slot for slot in live if self._call(slot).request.id in wanted]

    def admit(self, calls: Sequence[Call]) -> list[int]:
        """Give each call a slot: holes first, then new ones at the end."""
        slots = []
        for _ in calls:
            slot = self._holes.pop() if self._holes else self.used
            self.used = max(self.used, slot + 1)
            slots.append(slot)
        self._grow(len(self._calls) + max(len(calls) - len(self._free), 0), max(c.request.max_tokens for c in calls))
        for call, slot in zip(calls, slots, strict=True):
            record, request = self._free.pop(), call.request
            self._calls[record] = call
            self.record[slot] = record
            self.length[record] = call.context - (call.kept is not None)
            self.last[record] = request.context[-1]
            self._count[record], self._cap[record] = 0, request.max_tokens
            self._position[record], self._key[record] = request.position, stream_key(request.noise)
            self._stop_set[record] = self._stop_set_of(request.stop_ids)
            if request.sampling not in self.samplings:
                self.samplings.append(request.sampling)
            self.sampling[record] = self.samplings.index(request.sampling)
        return slots

    def close_holes(self) -> tuple[list[int], list[int]]:
        """Let the last live rows take the holes; returns the moves (source slots, target slots)."""
        live = self.used - len(self._holes)
        # every hole below the new end is matched with a live row at or above it
        target = sorted(hole for hole in self._holes if hole < live)
        source = sorted(set(range(live, self.used)) - set(self._holes))
        self.used = live
        self._holes = []
        self.record[target] = self.record[source]
        return source, target

    def uniforms(self, record_N: I64) -> NDArray[np.float64]:
        """The uniform of each record's next token, shape (N,)."""
        column_N = self._count[record_N] % _NOISE_BLOCK
        fresh = record_N[column_N == 0]
        if len(fresh):
            first = self._position[fresh] + self._count[fresh]
            self._noise[fresh] = uniforms(self._key[fresh, None], first[:, None] + np.arange(_NOISE_BLOCK))
        return self._noise[record_N, column_N]

    def note(self, record_N: I64, ids_N: I64, logp_N: NDArray[np.float64]) -> list[tuple[int, Stop]]:
        """Append one token to each record; returns which of the N ended, and why (EOS before stop token before cap)."""
        count_N = self._count[record_N]
        self._ids[record_N, count_N] = ids_N
        self._logp[record_N, count_N] = logp_N
        self.last[record_N] = ids_N
        self._count[record_N] = count_N + 1
        why_N = self._stop_table[self._stop_set[record_N], ids_N]
        why_N[(why_N == _NONE) & (count_N + 1 == self._cap[record_N])] = _STOPS.index(Stop.LENGTH)
        return [(int(index), _STOPS[why_N[index]]) for index in np.flatnonzero(why_N != _NONE)]

    def release(self, slot: int) -> tuple[Call, Ids, Logps]:
        """Take a sequence out of its slot, which becomes a hole."""
        record, call = int(self.record[slot]), self._call(slot)
        count = int(self._count[record])
        self._calls[record] = None
        self._free.append(record)
        self._holes.append(slot)
        return call, self._ids[record, :count].copy(), self._logp[record, :count].copy()

    def _call(self, slot: int) -> Call:
        call = self._calls[self.record[slot]]
        assert call is not None, f"slot {slot} is empty"
        return call

    def _grow(self, records: int, tokens: int) -> None:
        have, width = len(self._calls), self._ids.shape[1]
        if records <= have and tokens <= width:
            return
        records, tokens = max(records, have), max(tokens, width)
        for name in ("record", "length", "last", "sampling", "_count", "_cap", "_stop_set", "_position", "_key"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.zeros(records - have, old.dtype)]))
        for name, columns in (("_noise", _NOISE_BLOCK), ("_ids", tokens), ("_logp", tokens)):
            old = getattr(self, name)
            new = np.zeros((records, columns), old.dtype)
            new[:have, : old.shape[1]] = old
            setattr(self, name, new)
        self._calls += [None] * (records - have)
        self._free += range(have, records)

    def _stop_set_of(self, stop_ids: tuple[int, ...]) -> int:
        """Row of the table that says how each token ends a call with these stop tokens."""
        if stop_ids not in self._stop_sets:
            row_V = np.full(self._vocabulary, _NONE, np.int8)
            row_V[[token for token in stop_ids if token < self._vocabulary]] = _STOPS.index(Stop.STOP_TOKEN)
            row_V[self._eos_ids] = _STOPS.index(Stop.EOS)
            self._stop_sets[stop_ids] = len(self._stop_table)
            self._stop_table = np.concatenate([self._stop_table, row_V[None]])
        return self._stop_sets[stop_ids]
