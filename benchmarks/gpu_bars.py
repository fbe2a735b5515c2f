"""What GPU figures are held to: the section ``[gpu]`` of ``bars.toml``.

It stands apart from ``[bars]``, because `make claims` has to pass on machines without a GPU.
"""

from __future__ import annotations

import tomllib
from functools import cache
from typing import Any

from laconic.benchmarks.claim import ROOT

BARS = ROOT / "benchmarks" / "bars.toml"


@cache
def gpu_bars() -> dict[str, dict[str, Any]]:
    """Id -> ``{floor | ceiling: number, script: name}``."""
    bars: dict[str, dict[str, Any]] = tomllib.loads(BARS.read_text())["gpu"]
    return bars


def verdict(name: str, value: float) -> str:
    """The bar and whether ``value`` keeps it, in words; empty for a figure without one.

    >>> verdict("gpu.tree_attn_floor", 0.5)
    'bar >= 0.45: kept'
    """
    bar = gpu_bars().get(name)
    if bar is None:
        return ""
    floor = "floor" in bar
    limit = float(bar["floor" if floor else "ceiling"])
    kept = value >= limit if floor else value <= limit
    return f"bar {'>=' if floor else '<='} {limit:.3g}: {'kept' if kept else 'MISSED'}"
