"""Kill a training run with SIGKILL at random moments, go on each time, and compare with a run that was left alone.

    python benchmarks/soak_kill.py [--kills 10] [--steps 20] [--seed 0]

On the embedded engine, a CPU and fixed threads both must end with equal prompt ids and losses of every step and equal
weights, bit for bit. The moments are spread over the whole run and over its phases: a run writes the name of its
current phase to the file named by LACONIC_PHASE_FILE, and a kill waits for its phase, then for a random while.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from laconic.benchmarks.claim import ROOT, TRAINING_STEP, write_claims
from laconic.train.checkpoint import latest_checkpoint
from laconic.train.metrics_log import read_metrics

PHASES = ("rollout", "save", "update", "judge", "start")
"""Where kills aim, in turns; ``start`` is all that happens before the first rollout."""
COMPARED = ("prompt_ids_hash", "loss", "grad_norm")
"""Fields of ``metrics.jsonl`` that must be equal in every step."""
SMALL_RUN = (
    "threads=1",
    "rollout.prompts_per_step=2",
    "rollout.group_size=8",
    "rollout.max_completion=256",
    "optim.lr=2e-4",
    "save.every=3",
    "save.rollouts_every=4",
)
"""On top of ``configs/methods/dot.yaml``: about half a second per step, with signal in most groups."""
Program = Sequence[str | Path]
TRAINING: Program = (sys.executable, "-m", "laconic.train", ROOT / "configs" / "methods" / "dot.yaml")
"""What is started, before its ``key=value`` settings."""
SOURCES = [*TRAINING_STEP, *(f"train/{name}.py" for name in ("saving", "checkpoint", "run", "run_folder"))]
SOURCES += ["atomic.py", "locking.py", "train/metrics_log.py", "train/rollout_log.py", "rollout/saved.py"]
SOURCES += ["rollout/scheduler.py", "rollout/noise.py"]
SOURCES += ["rewards/pool.py", "rewards/process.py", "rewards/worker.py", "benchmarks/soak_kill.py"]
"""What decides whether a run survives."""
_POLL_SECONDS = 0.001


class Run:
    """One training command in a working folder of its own; ``start`` it as often as needed."""

    def __init__(
        self, folder: Path, name: str, steps: int, overrides: Sequence[str] = (), program: Program = ()
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path = folder, folder / "runs" / name
        self.phase_file, self.output = folder / f"{name}.phase", folder / f"{name}.output"
        self.command = [*(program or TRAINING), f"name={name}", f"steps={steps}", *SMALL_RUN, *overrides]

    def start(self) -> subprocess.Popen[bytes]:
        """Start the command, as the leader of a process group of its own."""
        self.phase_file.unlink(missing_ok=True)
        environment = os.environ | {"LACONIC_PHASE_FILE": str(self.phase_file)}
        with self.output.open("ab") as output:
            return subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def finish(self, process: subprocess.Popen[bytes], limit: float = 600.0) -> None:
        """Wait for a successful end; RuntimeError with the output's last lines otherwise."""
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise RuntimeError(f"the run did not end within {limit:.0f} s:\n{self.last_output()}") from None
        if status != 0:
            raise RuntimeError(f"the run ended with status {status}:\n{self.last_output()}")

    @property
    def phase(self) -> str:
        """The phase last begun; ``start`` before the first, empty while the file is being replaced."""
        try:
            return self.phase_file.read_text()
        except FileNotFoundError:
            return "start"

    @property
    def steps_done(self) -> int:
        """Lines of the metrics so far."""
        metrics = self.path / "metrics.jsonl"
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    def last_output(self, lines: int = 30) -> str:
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-lines:]) if self.output.exists() else ""


@dataclass(frozen=True)
class Kill:
    """A moment at which the run was killed."""

    aimed_at: str
    phase: str
    after_steps: int
    """Lines of the metrics at that moment."""
    seconds: float
    """Since the process was started."""


@dataclass
class Report:
    """What a soak found; ``differences`` is empty when the run survives every kill."""

    kills: list[Kill] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    seconds_alone: float = 0.0
    steps: int = 0
    moved: bool = False
    """The weights are not those the run began with: equality says something."""


def soak(
    folder: Path,
    *,
    kills: int,
    steps: int = 20,
    seed: int = 0,
    overrides: Sequence[str] = (),
    program: Program = (),
) -> Report:
    """Run one command undisturbed and once more with kills, and compare what they leave behind."""
    report = Report(steps=steps)
    alone = Run(folder / "alone", "soak", steps, overrides, program)
    began = time.perf_counter()
    durations = _time_phases(alone)
    report.seconds_alone = time.perf_counter() - began

    moments = random.Random(seed)
    aims = [PHASES[index % len(PHASES)] for index in range(kills)]
    moments.shuffle(aims)
    # The last kill needs a run that is under way, and a few steps in which to meet its phase.
    after = sorted(int(moments.uniform(0, 0.75 * steps)) for _ in range(kills))
    killed = Run(folder / "killed", "soak", steps, overrides, program)
    for aim, after_steps in zip(aims, after, strict=True):
        wait = moments.uniform(0, statistics.median(durations[aim]))
        report.kills.append(_kill(killed, aim, after_steps, wait))
    killed.finish(killed.start())

    report.differences = differences(alone.path, killed.path)
    losses = [record["loss"] for record in read_metrics(alone.path / "metrics.jsonl")]
    report.moved = len(set(losses)) > 1 and any(losses)
    return report


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two finished run folders: steps, compared fields, final weights."""
    first, second = (read_metrics(path / "metrics.jsonl") for path in (one, other))
    found = []
    if [record["step"] for record in first] != [record["step"] for record in second]:
        found.append(f"steps {[r['step'] for r in first]} and {[r['step'] for r in second]}")
    for before, after in zip(first, second, strict=False):
        found += [
            f"step {before['step']}: {name} {before[name]!r} and {after[name]!r}"
            for name in COMPARED
            if before[name] != after[name]
        ]
    hashes, other_hashes = weight_hashes(one), weight_hashes(other)
    if hashes != other_hashes:
        found.append(f"final weights {hashes} and {other_hashes}")
    return found


def weight_hashes(run: Path) -> dict[str, str]:
    """sha256 of every weights file of the finished model, and of the last checkpoint, which does not round them."""
    files = sorted((run / "model").glob("*.safetensors"))
    if not files:
        raise RuntimeError(f"no weights in {run / 'model'}; the run has not finished")
    last = latest_checkpoint(run / "checkpoints")
    files += [] if last is None else sorted(last.glob("*.safetensors"))
    return {file.relative_to(run).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], run: Run, limit: float = 300.0) -> None:
    """Poll until ``condition``; RuntimeError if the process ends or the time runs out before."""
    deadline = time.monotonic() + limit
    while not condition():
        if process.poll() is not None:
            raise RuntimeError(f"the run ended (status {process.returncode}) too early:\n{run.last_output()}")
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise RuntimeError(f"waited {limit:.0f} s in phase {run.phase!r}:\n{run.last_output()}")
        time.sleep(_POLL_SECONDS)


def _time_phases(run: Run) -> dict[str, list[float]]:
    """Run to the end; seconds of every stay in every phase."""
    process = run.start()
    durations: dict[str, list[float]] = {phase: [] for phase in PHASES}
    phase, since = "start", time.monotonic()
    while process.poll() is None:
        now, current = time.monotonic(), run.phase
        if current and current != phase:
            durations.setdefault(phase, []).append(now - since)
            phase, since = current, now
        time.sleep(_POLL_SECONDS)
    run.finish(process)
    missing = [name for name in PHASES if not durations[name]]
    if missing:
        raise RuntimeError(f"phases {missing} were never seen; does the run write LACONIC_PHASE_FILE?")
    return durations


def _kill(run: Run, aim: str, after_steps: int, wait: float) -> Kill:
    """Start the run; kill it ``wait`` seconds into phase ``aim``, once ``after_steps`` steps are done.

    The process is stopped before the last look at its phase, so that what is recorded is true. If the phase was over
    by then the process goes on, and the next try waits half as long.
    """
    process = run.start()
    started = time.monotonic()
    while True:
        if aim != "start":
            wait_until(lambda: run.steps_done >= after_steps and run.phase == aim, process, run)
        time.sleep(wait)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.002)
        phase = run.phase
        if phase == aim or aim == "start":
            process.send_signal(signal.SIGKILL)
            process.wait()
            return Kill(aim, phase, run.steps_done, round(time.monotonic() - started, 3))
        process.send_signal(signal.SIGCONT)
        wait /= 2
        wait_until(lambda: run.phase != aim, process, run)


def main() -> int:
    """Soak, print what happened, write the claim; exit status 1 if the two runs differ."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="further settings for both runs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = soak(
            Path(folder),
            kills=arguments.kills,
            steps=arguments.steps,
            seed=arguments.seed,
            overrides=arguments.overrides,
        )
    for kill in report.kills:
        print(f"killed in {kill.phase:<9} (aimed at {kill.aimed_at:<8}) after {kill.after_steps:>3} steps")
    for difference in report.differences:
        print(f"DIFFERS: {difference}")
    equal = report.moved and not report.differences
    print(f"{len(report.kills)} kills in a run of {report.steps} steps: {'bit-equal' if equal else 'NOT equal'}")
    details: dict[str, Any] = asdict(report) | {"seed": arguments.seed, "overrides": arguments.overrides}
    write_claims(
        "soak_kill",
        f"python benchmarks/soak_kill.py --kills {arguments.kills} --steps {arguments.steps} --seed {arguments.seed}",
        [
            {
                "id": "soak.kills_survived_bit_equal",
                "kind": "finding",
                "value": float(len(report.kills)) if equal else 0.0,
                "spread": None,
                "peer": "the same command, never killed",
                "equal": equal,
                "sources": SOURCES,
            }
        ],
        details,
    )
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
