"""A run killed with SIGKILL at random moments and started again ends as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconic.benchmarks.soak_kill import PHASES, soak


@pytest.mark.soak
def test_a_run_killed_at_random_moments_ends_bit_equal_to_one_left_alone(tmp_path: Path, soak_kills: int) -> None:
    report = soak(tmp_path, kills=soak_kills, steps=20, seed=7)
    assert report.moved, "nothing was learned: equality would say nothing"
    assert report.differences == []
    assert len(report.kills) == soak_kills
    assert {kill.phase for kill in report.kills} >= set(PHASES[: min(soak_kills, 4)])
    checkpoints = tmp_path / "killed" / "runs" / "soak" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir() if path.name.startswith(".tmp")] == []
