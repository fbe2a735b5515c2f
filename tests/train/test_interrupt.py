"""Ctrl-C: the run saves, ends with status 130, says how to go on, and goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from laconic.benchmarks.soak_kill import Run, differences, wait_until
from laconic.train.checkpoint import latest_checkpoint, step_of
from laconic.train.metrics_log import read_metrics

STEPS = 8


def test_ctrl_c_saves_and_the_same_command_goes_on_to_the_same_end(tmp_path: Path) -> None:
    # Without a checkpoint of its own before the interrupt: what is found afterwards, Ctrl-C has saved.
    rare = ("save.every=100",)
    alone = Run(tmp_path / "alone", "run", STEPS, rare)
    alone.finish(alone.start())
    stopped = Run(tmp_path / "stopped", "run", STEPS, rare)
    process = stopped.start()
    wait_until(lambda: stopped.steps_done >= 2 and stopped.phase == "rollout", process, stopped)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the verifier's processes get it, too
    assert process.wait(60) == 130, stopped.last_output()

    saved = latest_checkpoint(stopped.path / "checkpoints")
    assert saved is not None
    done = [record["step"] for record in read_metrics(stopped.path / "metrics.jsonl")]
    assert done == list(range(1, step_of(saved) + 1))
    assert 2 <= len(done) < STEPS
    output = stopped.last_output(8)
    assert "Traceback" not in output
    assert "same command" in output, "the last lines say how to go on"

    stopped.finish(stopped.start())
    assert differences(alone.path, stopped.path) == []
