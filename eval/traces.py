"""Traces: what an engine does for one answer, as a list of prefills and decodes, and what that costs.

    linear      prefill(P, 0); decode(R-1, P)
    parallel    prefill(P, 0) once; decode(R_j - 1, P) for each sample j
    chunked     prefill(P, 0); decode(C-1, P); then per chunk prefill(m, P); decode(r_k - 1, P + m)
    tree        prefill(P, 0); an inner node of length l at prefix length s: decode(l, s); a leaf: decode(l-1, s)

Injected and carried tokens are prefill, sampled tokens decode. Totals are sums over events; ``lockstep_latency`` is
the time of all branches decoding side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ..errors import ConfigError
from .cost import (
    attended,
    attention_time,
    cached_positions,
    decode_flops,
    linear_step_time,
    prefill_flops,
    prefill_time,
    step_time,
)
from .hardware import Hardware
from .model_spec import ModelSpec

KvSharing = Literal["none", "cascade"]


@dataclass(frozen=True, slots=True)
class Event:
    """``n`` new tokens after ``s`` context tokens."""

    op: Literal["prefill", "decode"]
    n: int
    s: int


@dataclass(frozen=True, slots=True)
class Trace:
    """Events of one answer."""

    kind: str
    events: tuple[Event, ...]
    peak_tokens: int
    """Most tokens whose keys and values are live at once."""
    union_reads: int | None = None
    """KV tokens read if a step reads the union of the live contexts once (cascade attention); None: no sharing."""

    @property
    def prefill_tokens(self) -> int:
        """Tokens read by prefills."""
        return sum(event.n for event in self.events if event.op == "prefill")

    @property
    def decode_steps(self) -> int:
        """Decode steps over all sequences."""
        return sum(event.n for event in self.events if event.op == "decode")


@dataclass(frozen=True, slots=True)
class TraceCost:
    """The cost of a trace on one machine."""

    prefill_tokens: int
    decode_steps: int
    flops: float
    kv_read: float
    """Bytes of keys and values read while decoding."""
    peak_kv: float
    """Bytes."""
    latency: float
    """Seconds when the events run one after another, alone on the machine."""
    gpu_s: float
    """GPU-seconds, weight reads shared by ``batch`` sequences."""


def linear(prompt: int, response: int) -> Trace:
    """One response; an empty one costs its prefill."""
    steps = max(response - 1, 0)
    return Trace("linear", (Event("prefill", prompt, 0), Event("decode", steps, prompt)), prompt + steps)


def parallel(prompt: int, responses: Sequence[int]) -> Trace:
    """Independent samples of one prompt, which is read once."""
    return tree(prompt, [(None, length) for length in responses], kind="parallel")


def chunked(prompt: int, chunk: int, carry: int, chunks: int, last: int | None = None) -> Trace:
    """Markovian chunks (Delethink, arXiv 2510.06557): each later chunk restarts from the prompt and ``carry`` tokens.

    Chunks reach ``chunk`` tokens, carry included; ``last`` is the number of new tokens of the last one (default: all
    that fit). Raises ``ConfigError`` if the carry leaves no room.
    """
    if not 0 <= carry < chunk or chunks < 1:
        raise ConfigError(
            f"carry is {carry}, chunk {chunk}, chunks {chunks}; need 0 <= carry < chunk and at least one chunk"
        )
    fresh = [chunk] + [chunk - carry] * (chunks - 1)
    if last is not None:
        fresh[-1] = last
    events = [Event("prefill", prompt, 0), Event("decode", fresh[0] - 1, prompt)]
    for new in fresh[1:]:
        events += [Event("prefill", carry, prompt), Event("decode", new - 1, prompt + carry)]
    peak = prompt + max(fresh[0], *(carry + new for new in fresh[1:]), 1) - 1
    return Trace("chunked", tuple(events), peak)


def tree(prompt: int, nodes: Sequence[tuple[int | None, int]], kind: str = "tree") -> Trace:
    """A tree of segments, ``(parent index or None, length)`` each, parents first; every token is computed once."""
    inner = {parent for parent, _ in nodes if parent is not None}
    start: list[int] = []
    steps: list[int] = []
    for index, (parent, length) in enumerate(nodes):
        if parent is not None and not 0 <= parent < index:
            raise ConfigError(f"tree node {index} has parent {parent}; a parent must come before its children")
        start.append(0 if parent is None else start[parent] + nodes[parent][1])
        steps.append(length if index in inner else max(length - 1, 0))
    deepest = [begin + n for begin, n in zip(start, steps, strict=True)]
    for index in range(len(nodes) - 1, -1, -1):
        parent = nodes[index][0]
        if parent is not None:
            deepest[parent] = max(deepest[parent], deepest[index])
    # A node's tokens are read by its own steps, then once a step for as long as a branch below it is live.
    union = prompt * max(deepest, default=0)
    for begin, n, end in zip(start, steps, deepest, strict=True):
        union += n * (n + 1) // 2 + n * (end - begin - n)
    events = [Event("prefill", prompt, 0)]
    events += [Event("decode", n, prompt + begin) for begin, n in zip(start, steps, strict=True)]
    return Trace(kind, tuple(events), prompt + sum(steps), union)


def trace_cost(
    spec: ModelSpec, hardware: Hardware, trace: Trace, *, batch: int = 64, kv_sharing: KvSharing = "none"
) -> TraceCost:
    """Totals of a trace. GPU-seconds count prefill at the compute roof and share weight reads among ``batch``.

    ``kv_sharing="none"``: every branch reads its whole context (paged attention without cascade). ``"cascade"``: a
    step reads the union of the live contexts once; chunks and single sequences share nothing.
    """
    prefills = [event for event in trace.events if event.op == "prefill"]
    decodes = [event for event in trace.events if event.op == "decode"]
    steps = trace.decode_steps
    prefill = sum(float(prefill_flops(spec, event.n, event.s)) for event in prefills)
    positions = sum(float(attended(spec, event.n, event.s)) for event in decodes)
    read = float(trace.union_reads) if kv_sharing == "cascade" and trace.union_reads is not None else positions
    read = min(read, positions)
    attention = float(attention_time(spec, hardware, positions, read))
    alone = hardware.t0 + linear_step_time(spec, hardware, 1)
    shared = (hardware.t0 + linear_step_time(spec, hardware, batch)) / batch
    return TraceCost(
        prefill_tokens=trace.prefill_tokens,
        decode_steps=steps,
        flops=prefill + sum(float(decode_flops(spec, event.n, event.s)) for event in decodes),
        kv_read=spec.kv_bytes_per_token * read,
        peak_kv=spec.kv_bytes_per_token * float(cached_positions(spec, trace.peak_tokens)),
        latency=sum(float(prefill_time(spec, hardware, e.n, e.s)) for e in prefills) + steps * alone + attention,
        gpu_s=prefill / hardware.flops + steps * shared + attention,
    )


def lockstep_latency(spec: ModelSpec, hardware: Hardware, trace: Trace) -> float:
    """Seconds of decoding when all branches advance side by side, at a batch of as many as are live; no prefill.

    Raises ``ConfigError`` for chunks, which run one after another: their latency is ``trace_cost(...).latency``.
    """
    if trace.kind == "chunked":
        raise ConfigError("chunks do not decode side by side; use trace_cost(...).latency")
    change: dict[int, int] = {}
    for event in trace.events:
        if event.op == "decode" and event.n:
            change[event.s + 1] = change.get(event.s + 1, 0) + 1
            change[event.s + event.n + 1] = change.get(event.s + event.n + 1, 0) - 1
    seconds, live = 0.0, 0
    for begin, end in pairwise(sorted(change)):
        live += change[begin]
        if live:
            seconds += sum(step_time(spec, hardware, live, context) for context in range(begin, end))
    return seconds
