"""How far the demo goes when it is trained longer, on three seeds: ``python benchmarks/longer_run.py``.

Findings, without a bar. The aim is the reduction published for DOT, a token ratio of 0.22; a pass of work that is done
once has the ratio given in the details as ``one_pass``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from laconic.benchmarks.claim import median_and_spread, write_claims
from laconic.benchmarks.demo import SOURCES
from laconic.demo import run_demo

SEEDS = (1, 2, 3)


def main() -> None:
    """Train and evaluate every seed, and write the medians with lowest and highest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="training steps; the demo has 100 (default %(default)s)")
    steps = parser.parse_args().steps
    summaries = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            overrides = [f"seed={seed}", f"steps={steps}"]
            summaries[seed] = run_demo(Path(folder) / f"seed-{seed}", overrides=overrides)
    claims = []
    for name, key in (("token_ratio", "token_ratio"), ("accuracy_change", "accuracy")):
        samples = [summary["delta"][key] for summary in summaries.values()]
        value, spread = median_and_spread(samples)
        claims.append(
            {
                "id": f"longer.{name}", "kind": "finding", "value": value, "spread": spread, "peer": None,
                "equal": None, "sources": SOURCES, "samples": samples,
            }
        )  # fmt: skip
    write_claims("longer_run", "python benchmarks/longer_run.py", claims, {"steps": steps, "seeds": summaries})


if __name__ == "__main__":
    main()
