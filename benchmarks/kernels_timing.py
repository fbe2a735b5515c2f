"""How a kernel is measured beside its peers: correctness first, then time in turns, peak memory and the floor.

    floor = max(operations / 790 TFLOP/s, bytes / 4.3 TB/s)        what one H200 was measured to do at best

A side whose result is off is an error and nothing is reported. A peer that is not installed is named as not measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

PEAK_FLOPS, PEAK_BYTES = 790e12, 4.3e12
"""Of bfloat16 products of 8192 x 8192 random matrices, and of a copy on the device (read and written) per second."""


@dataclass
class Case:
    """One operation at one size; every side does the same work."""

    name: str
    sides: dict[str, Callable[[], Any]]
    """Ours first."""
    errors: dict[str, tuple[float, float | None]]
    """What was compared before anything is timed: (error, largest allowed); None where a peer's error is only shown."""
    flops: float = 0.0
    bytes: float = 0.0
    absent: dict[str, str] = field(default_factory=dict)
    """Peers that could not be measured, and why."""
    graphs: Collection[str] = ()
    """Sides that are timed as CUDA graphs on a GPU: they would take as long as Python needs to launch their kernels."""

    @property
    def floor_ms(self) -> float:
        return 1e3 * max(self.flops / PEAK_FLOPS, self.bytes / PEAK_BYTES)

    @property
    def bound(self) -> str:
        """What the floor is made of."""
        return "multiplications" if self.flops / PEAK_FLOPS > self.bytes / PEAK_BYTES else "bytes"


def measure_case(case: Case, rounds: int = 9) -> dict[str, Any]:
    """Every figure of a case, in the form ``kernels_run.py`` prints.

    Raises:
        SystemExit: a side gives other results, so that its time means nothing.
    """
    wrong = {name: error for name, (error, most) in case.errors.items() if most is not None and not error <= most}
    if wrong:
        raise SystemExit(f"{case.name}: errors {wrong} are above what is allowed, {case.errors}")
    samples: dict[str, list[float]] = {name: [] for name in case.sides}
    for run in case.sides.values():
        for _ in range(3):
            run()
    peaks = {name: _peak_gib(run) for name, run in case.sides.items()}
    graphs = case.graphs if torch.cuda.is_available() else ()
    timed = {name: _as_graph(run) if name in graphs else run for name, run in case.sides.items()}
    for turn in range(rounds):
        for name in list(timed) if turn % 2 == 0 else list(reversed(timed)):
            samples[name].append(_milliseconds(timed[name]))
    sides = {
        name: {
            "ms": statistics.median(ms),
            "lowest": min(ms),
            "highest": max(ms),
            "peak_gib": peaks[name],
            "samples": ms,
        }
        for name, ms in samples.items()
    }
    errors = {name: error for name, (error, _) in case.errors.items()}
    return {
        "sides": sides, "errors": errors, "floor_ms": case.floor_ms, "bound": case.bound, "absent": case.absent,
    }  # fmt: skip


def ratios(figures: dict[str, Any], ours: str, peer: str) -> Sequence[float]:
    """How many times faster ours was, pair by pair."""
    sides = figures["sides"]
    return [b / a for a, b in zip(sides[ours]["samples"], sides[peer]["samples"], strict=True)]


def _as_graph(run: Callable[[], Any]) -> Callable[[], Any]:
    """``run`` captured once: a replay launches the same kernels on the same memory, without Python."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # capture is preceded by runs on a stream of its own
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _milliseconds(run: Callable[[], Any]) -> float:
    if not torch.cuda.is_available():
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)
    # What the other side left in the L2 cache must not help this one.
    torch.empty(2**27, dtype=torch.int8, device="cuda").zero_()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    events[0].record()
    run()
    events[1].record()
    events[1].synchronize()
    return float(events[0].elapsed_time(events[1]))


def _peak_gib(run: Callable[[], Any]) -> float | None:
    """Memory beyond what was there before; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return float((torch.cuda.max_memory_allocated() - before) / 2**30)
