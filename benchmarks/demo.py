"""The main job as a new user runs it: ``python benchmarks/demo.py``.

A fresh clone of this repository, a new virtual environment and an empty cache: ``make run``, with the wall time and
the memory of all its processes watched. Then the same training without truncation (plain GRPO, same prompts, steps and
learning rate) is run as the control, and its evaluation compared with that of the demo problem by problem.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from laconic.benchmarks.claim import EMBEDDED_ENGINE, TRAINING_STEP, write_claims
from laconic.demo import run_demo
from laconic.eval.paired import compare_runs

ROOT = Path(__file__).parents[1]
SOURCES = ["demo.py", "configs/quickstart.yaml", "train/thinker/weights/model.safetensors", "eval/paired.py"]
SOURCES += [*TRAINING_STEP, "train/trl_config.py"]
SOURCES += ["train/truncation/dot.py", "train/credit/grpo.py", "train/objectives/clip.py", "train/samplers/uniform.py"]
SOURCES += [f"rollout/{name}.py" for name in ("scheduler", "records", "noise", "drivers/flat")]
SOURCES += EMBEDDED_ENGINE
"""What decides the figures."""
COMMAND = "python benchmarks/demo.py"


class Memory(threading.Thread):
    """Peak of the memory of a process and all its descendants, in GB, shared pages counted once for each."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process, self.peak_gb = psutil.Process(pid), 0.0

    def run(self) -> None:
        while self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE:
            used = 0
            try:
                for process in [self.process, *self.process.children(recursive=True)]:
                    used += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue  # one of them has just ended; the next look sees the others
            self.peak_gb = max(self.peak_gb, used / 1e9)
            time.sleep(0.2)


def run_fresh(folder: Path) -> tuple[dict, float, float]:
    """``make run`` in a fresh clone; returns its summary, wall seconds and peak GB."""
    clone = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    # pip's downloads and the cached evaluation of the base model live under the home folder.
    environment["HOME"] = str(folder / "home")
    (folder / "home").mkdir()
    started = time.perf_counter()
    process = subprocess.Popen(["make", "run"], cwd=clone, env=environment)
    memory = Memory(process.pid)
    memory.start()
    if process.wait() != 0:
        sys.exit(f"make run failed with status {process.returncode}")
    seconds = time.perf_counter() - started
    summary = json.loads((clone / "runs/demo/summary.json").read_text())
    # Kept for a look after the clone is gone.
    subprocess.run(["cp", "-r", str(clone / "runs/demo"), str(folder / "demo")], check=True)
    return summary, seconds, memory.peak_gb


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        summary, seconds, peak_gb = run_fresh(folder)
        # The base model's samples are the same ones.
        shutil.copytree(folder / "demo/base", folder / "control/base")
        control = run_demo(folder / "control", overrides=["truncation.name=none"])
        against = compare_runs(folder / "control/trained", folder / "demo/trained")["overall"]
    tokens = against["tokens"]
    delta = summary["delta"]

    def claim(name: str, kind: str, value: float, spread: list[float] | None = None, peer: str | None = None) -> dict:
        return {
            "id": f"demo.{name}", "kind": kind, "value": value, "spread": spread, "peer": peer,
            "equal": True if peer else None, "sources": SOURCES,
        }  # fmt: skip

    write_claims(
        "demo",
        COMMAND,
        [
            claim("seconds_total", "ceiling", seconds),
            claim("seconds_train", "ceiling", summary["seconds"]["train"]),
            claim("peak_gb", "ceiling", peak_gb),
            claim("token_ratio", "ceiling", delta["token_ratio"], delta["token_ratio_ci95"]),
            claim("accuracy_ci_low", "floor", delta["accuracy_ci95"][0], delta["accuracy_ci95"]),
            claim("vs_control", "ceiling", tokens["ratio_ci95"][1], tokens["ratio_ci95"], "plain GRPO, same steps"),
            claim("distance_to_one_pass", "finding", delta["token_ratio"] / summary["one_pass"]["token_ratio"]),
        ],
        {"summary": summary, "control": control, "dot_against_control": against},
    )


if __name__ == "__main__":
    main()
