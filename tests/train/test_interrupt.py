"""Ctrl-C: the run saves, ends with status 130, says how to go on, and goes on."""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from laconic.benchmarks.soak_kill import Run, differences, wait_until
from laconic.train.checkpoint import latest_checkpoint, step_of
from laconic.train.interrupt import stop_on_interrupt
from laconic.train.metrics_log import read_metrics

STEPS = 8


def test_the_first_ctrl_c_is_answered_in_the_middle_of_a_print(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    class Busy(io.TextIOBase):
        """A stream that the interrupted code is writing to."""

        def write(self, text: str) -> int:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    trainer: Any = SimpleNamespace(stop_requested=False, ranks=SimpleNamespace(count=1, first=True))
    with stop_on_interrupt(trainer):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", Busy())
            signal.raise_signal(signal.SIGINT)
        assert trainer.stop_requested
        with pytest.raises(KeyboardInterrupt, match="at once"):
            signal.raise_signal(signal.SIGINT)
    assert "stopping: saving the run" in capfd.readouterr().out


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
