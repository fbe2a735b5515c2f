"""How long ``laconic --help`` takes, from the start of the process to its end: ``cli.help_seconds``.

The first run is not counted: it compiles the modules, which happens once after an installation.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from laconic.benchmarks.claim import median_and_spread, write_claims

RUNS = 11


def main() -> None:
    """Measure and write ``benchmarks/results/cli_help.json``."""
    command = [str(Path(sys.executable).with_name("laconic")), "--help"]
    help_seconds(command)
    samples = [help_seconds(command) for _ in range(RUNS)]
    value, spread = median_and_spread(samples)
    path = write_claims(
        "cli_help",
        command="python benchmarks/cli_help.py",
        claims=[
            {
                "id": "cli.help_seconds",
                "kind": "ceiling",
                "value": value,
                "spread": spread,
                "peer": None,
                "equal": None,
                "sources": ["cli.py", "__init__.py", "errors.py"],
                "samples": samples,
            }
        ],
        details={"unit": "seconds of wall time", "runs": RUNS},
    )
    print(f"laconic --help: {value:.3f} s (median of {RUNS}, {spread[0]:.3f} to {spread[1]:.3f}) -> {path}")


def help_seconds(command: list[str]) -> float:
    """Wall time of one run, in seconds; raises if it fails or prints no help."""
    start = time.perf_counter()
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    if "Usage" not in answer.stdout:
        raise RuntimeError(f"{' '.join(command)} printed no usage line: {answer.stdout[:200]!r}")
    return seconds


if __name__ == "__main__":
    main()
