"""Every GPU test and GPU measurement in one call of under nine minutes: ``make bench-gpu``.

What has to be installed first is not in the nine minutes, and the parts' limits add up to more than those.

Parts run one after the other, each in a process of its own, none longer than its limit and all together no longer than
``--seconds``: a part that is stopped, or for which no time is left, is named in the table instead of being left out.
The tests come first, because a figure of a kernel that is wrong means nothing; those that compile each kernel in many
forms come after the figures, which compare results themselves. Measurements write ``results/*_cuda.json``; the table at
the end shows the claims written by this call.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec

from laconic.benchmarks.claim import RESULTS, ROOT
from laconic.benchmarks.gpu_bars import gpu_bars, verdict


@dataclass(frozen=True)
class Part:
    """One process."""

    name: str
    arguments: tuple[str, ...]
    limit_s: float
    needs: tuple[str, ...] = ()
    """Packages without which it cannot run."""


def script(name: str, limit_s: float, *needs: str) -> Part:
    return Part(name, (f"benchmarks/{name}.py", "--device", "cuda"), limit_s, needs)


# A file that can't be imported, because a package of another stage is missing, must not keep the others from running.
PYTEST = ("-m", "pytest", "--continue-on-collection-errors")
MARKED = (
    *(f"tests/kernels/test_{name}.py" for name in ("tree_attn", "cascade_decode", "merge_lse", "fused_logprob")),
    "tests/rollout/engines/test_transformers.py",
)
MARKED_OF_TRAINING = ("tests/train/test_doctor.py",)
"""Apart, because they can't be imported without trl."""
# Without a mark, because they run under the interpreter too. Most of their time is compilation.
OF_TRITON = (
    *(
        f"tests/kernels/test_{name}.py"
        for name in ("tree_attn_triton", "fused_logprob", "pg_loss", "cascade_decode", "merge_lse", "trials")
    ),
    "tests/rollout/engines/test_cascade.py::test_the_kernel_runs_in_the_engine_and_gives_the_same_answers",
)
SIDE_BY_SIDE = ("-n", "8", "--dist", "load") if find_spec("xdist") else ()

PARTS = (
    Part("tests", (*PYTEST, "-m", "gpu", *MARKED), 120, ("pytest",)),
    Part("training_tests", (*PYTEST, "-m", "gpu", *MARKED_OF_TRAINING), 60, ("pytest", "trl", "datasets")),
    script("kernels_run", 240),
    script("packed_step_trl", 210, "trl", "datasets"),
    Part("triton_tests", (*PYTEST, *SIDE_BY_SIDE, *OF_TRITON), 120, ("pytest",)),
    script("engine", 120),
    script("train_step", 150, "trl", "datasets", "math_verify"),
    script("rollout", 120),
)
LEAST_S = 20
"""Less time than this is not begun with."""


def main() -> int:
    """Run what fits, print the table; exit status 1 if a part failed or was stopped, so that it has not said all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=520, help="for everything together (default %(default)s)")
    parser.add_argument("--part", action="append", choices=[part.name for part in PARTS], help="only this one")
    given = parser.parse_args()
    began, clock = time.time(), time.monotonic()
    outcomes: dict[str, str] = {}
    for part in PARTS:
        if given.part and part.name not in given.part:
            continue
        left = given.seconds - (time.monotonic() - clock)
        missing = [package for package in part.needs if find_spec(package) is None]
        if missing:
            outcomes[part.name] = f"not measured: {', '.join(missing)} not installed"
        elif left < LEAST_S:
            outcomes[part.name] = "not measured: no time left"
        else:
            outcomes[part.name] = run(part, min(part.limit_s, left))
    print_table(outcomes, began)
    return int(any(outcome.startswith(("FAILED", "stopped")) for outcome in outcomes.values()))


def run(part: Part, limit_s: float) -> str:
    """What became of it, in a few words."""
    print(f"== {part.name}, up to {limit_s:.0f} s", flush=True)
    started = time.monotonic()
    # A session of its own, so that workers it started end with it; unbuffered, so that what is stopped has said all.
    process = subprocess.Popen(
        [sys.executable, *part.arguments], cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, start_new_session=True
    )
    try:
        status = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"stopped at its limit of {limit_s:.0f} s"
    seconds = time.monotonic() - started
    return f"done in {seconds:.0f} s" if status == 0 else f"FAILED with status {status} after {seconds:.0f} s"


def print_table(outcomes: dict[str, str], began: float) -> None:
    """Outcomes of the parts, then the claims of result files that are newer than ``began``, beside their bars."""
    print()
    for name, outcome in outcomes.items():
        print(f"{name:<16} {outcome}")
    measured = set()
    for path in sorted(RESULTS.glob("*_cuda.json")):
        if path.stat().st_mtime < began:
            continue
        for claim in json.loads(path.read_text())["claims"]:
            measured.add(claim["id"])
            bar = verdict(claim["id"], claim["value"])
            print(f"  {claim['id']:<36} {claim['value']:10.4g}  {bar:<24} {claim['peer'] or ''}")
    for name, of in gpu_bars().items():
        if name not in measured and of["script"] in outcomes:
            print(f"  {name:<36} not measured")


if __name__ == "__main__":
    sys.exit(main())
