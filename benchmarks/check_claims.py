"""Do the written claims hold? ``python benchmarks/check_claims.py [--fresh]``; exit status 1 if one does not.

A claim fails when its value misses the bar of ``bars.toml``, is not the median of its samples, compares sides that gave
different results, or is stale: a source file reads differently from when it was measured. A bar without a claim and a
floor or ceiling without a bar fail as well. Findings have no bar, but may be stale.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laconic.benchmarks.claim import RESULTS, ROOT, changed_sources

BARS = ROOT / "benchmarks" / "bars.toml"


@dataclass(frozen=True)
class Row:
    """What the check says of one claim or bar."""

    id: str
    value: str
    bar: str
    state: str
    """``holds``, ``finding``, or what is wrong."""
    remedy: str = ""

    @property
    def ok(self) -> bool:
        return self.state in ("holds", "finding")


def main() -> int:
    """Measure again if asked, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fresh", action="store_true", help="run every benchmark script first")
    parser.add_argument("--bars", type=Path, default=BARS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    declared = tomllib.loads(arguments.bars.read_text())
    failed_scripts = _measure(declared["scripts"]) if arguments.fresh else []
    rows = check(declared["bars"], _read_claims(arguments.results))
    _print_table(rows)
    for script in failed_scripts:
        print(f"FAILED to measure: {script}")
    bad = [row for row in rows if not row.ok]
    print(f"{len(rows) - len(bad)} of {len(rows)} hold")
    return 1 if bad or failed_scripts else 0


def check(bars: dict[str, dict[str, Any]], claims: list[dict[str, Any]], root: Path = ROOT) -> list[Row]:
    """One row for each bar and for each claim without one.

    ``bars`` maps an id to ``{floor | ceiling: number, script: name}``; ``claims`` are those of the result files, each
    with the ``command`` that measures it again.
    """
    by_id: dict[str, list[dict[str, Any]]] = {}
    for claim in claims:
        by_id.setdefault(claim["id"], []).append(claim)
    rows = []
    for name, bar in bars.items():
        kind = "floor" if "floor" in bar else "ceiling"
        bar_text = f"{'>=' if kind == 'floor' else '<='} {bar[kind]:g}"
        found = by_id.pop(name, [])
        if not found:
            rows.append(Row(name, "-", bar_text, "MISSING", f"python benchmarks/{bar['script']}.py"))
        rows += [_judge(claim, kind, float(bar[kind]), bar_text, root) for claim in found]
    for found in by_id.values():
        rows += [_judge(claim, "finding", None, "", root) for claim in found]
    return rows


def _judge(claim: dict[str, Any], kind: str, bar: float | None, bar_text: str, root: Path) -> Row:
    value = float(claim["value"])
    text = f"{value:.4g}{_spread(claim.get('spread'))}"
    changed = changed_sources(claim, root)
    if claim["kind"] != kind:
        without = "has no bar" if bar is None else "has a bar of another kind"
        state, remedy = f"CLAIMED AS {claim['kind'].upper()}", f"{without} in benchmarks/bars.toml"
    elif claim["equal"] is False or (bar is not None and claim["peer"] is not None and claim["equal"] is None):
        state, remedy = "UNEQUAL", f"its results differ from those of {claim['peer']}"
    elif "samples" in claim and not math.isclose(value, statistics.median(claim["samples"]), rel_tol=1e-9):
        state, remedy = "NOT ITS MEDIAN", f"the median of its samples is {statistics.median(claim['samples']):.4g}"
    elif bar is not None and not (value >= bar if kind == "floor" else value <= bar):
        state, remedy = "FALLS SHORT", f"measure again: {claim['command']}"
    elif changed or not claim["sources"]:
        state, remedy = "STALE", f"{', '.join(changed) or 'no sources'} changed; {claim['command']}"
    else:
        state, remedy = ("finding" if bar is None else "holds"), ""
    return Row(claim["id"], text, bar_text, state, remedy)


def _spread(spread: Any) -> str:
    if spread is None:
        return ""
    if isinstance(spread, (int, float)):
        return f" +-{spread:.3g}"
    return f" [{', '.join(f'{end:.4g}' for end in spread)}]"


def _read_claims(folder: Path) -> list[dict[str, Any]]:
    claims = []
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        claims += [{**claim, "command": record["command"]} for claim in record["claims"]]
    return claims


def _measure(scripts: list[str]) -> list[str]:
    """Run the scripts one after the other, each in its own process, and return those that failed."""
    failed = []
    for script in scripts:
        print(f"== benchmarks/{script}.py", flush=True)
        if subprocess.run(
            [sys.executable, str(ROOT / "benchmarks" / f"{script}.py")], check=False, cwd=ROOT
        ).returncode:
            failed.append(script)
    return failed


def _print_table(rows: list[Row]) -> None:
    cells = [("claim", "value [spread]", "bar", "state", "")]
    cells += [(row.id, row.value, row.bar, row.state, row.remedy) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    for line in cells:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(line[:4], widths, strict=True)), line[4]]).rstrip())


if __name__ == "__main__":
    sys.exit(main())
