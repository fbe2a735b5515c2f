"""A run killed with SIGKILL at random moments and started again ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from laconic.benchmarks.soak_kill import PHASES, Run, differences, soak, wait_until
from laconic.train.checkpoint import latest_checkpoint
from laconic.train.metrics_log import read_metrics


@pytest.mark.soak
def test_a_run_killed_at_random_moments_ends_bit_equal_to_one_left_alone(tmp_path: Path, soak_kills: int) -> None:
    report = soak(tmp_path, kills=soak_kills, steps=20, seed=7)
    assert report.moved, "nothing was learned: equality would say nothing"
    assert report.differences == []
    assert len(report.kills) == soak_kills
    assert {kill.phase for kill in report.kills} >= set(PHASES[: min(soak_kills, 4)])
    checkpoints = tmp_path / "killed" / "runs" / "soak" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir() if path.name.startswith(".tmp")] == []


def test_parked_rollouts_survive_a_kill(tmp_path: Path) -> None:
    park = ("rollout.park_after=40", "save.every=2")
    alone = Run(tmp_path / "alone", "run", 6, park)
    alone.finish(alone.start())
    assert any(line["groups/parked"] for line in read_metrics(alone.path / "metrics.jsonl"))
    killed = Run(tmp_path / "killed", "run", 6, park)
    process = killed.start()
    wait_until(lambda: killed.steps_done >= 3 and killed.phase == "rollout", process, killed)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)
    saved = latest_checkpoint(killed.path / "checkpoints")
    assert saved is not None and (saved / "parked.parquet").exists()
    killed.finish(killed.start())
    assert differences(alone.path, killed.path) == []
