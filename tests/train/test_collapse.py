"""The published failure, small: a length reward without a gate spoils the tiny thinker, the default gate does not.

Nothing filters on outcomes here, so that every group whose rewards have a deviation is trained, as under a filter on
the deviation of rewards. A price per token on all answers then makes giving up the best answer: short and wrong scores
above long and right, and in groups without a right answer lengths alone are rewarded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from laconic.train.metrics_log import read_metrics
from laconic.train.run import run_training
from laconic.train.settings import load_settings

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "methods"
SMALL = (
    "steps=40",
    "threads=1",
    "rollout.prompts_per_step=8",
    "rollout.group_size=8",
    "rollout.max_completion=300",
    "credit.name=grpo",
    "optim.lr=1e-3",
    "save.every=40",
    "save.rollouts_every=0",
)
PRICE = "name: adaptive_lagrangian, start: 0.01, eta: 0.0"
UNGATED = f"reward.shaping={{{PRICE}, gate: none, max_penalty: null}}"
GATED = f"reward.shaping={{{PRICE}}}"


def train(shaping: str, folder: Path) -> list[dict[str, Any]]:
    settings = load_settings(CONFIGS / "grpo.yaml", [*SMALL, shaping])
    run_training(settings, folder, quiet=True)
    return read_metrics(folder / "metrics.jsonl")


def accuracy(lines: list[dict[str, Any]]) -> float:
    return sum(line["outcome/accuracy"] for line in lines) / len(lines)


@pytest.mark.parametrize(("shaping", "spoiled"), [(UNGATED, True), (GATED, False)], ids=["ungated", "gated"])
def test_an_ungated_length_reward_collapses_and_the_default_gate_does_not(
    shaping: str, spoiled: bool, tmp_path: Path
) -> None:
    lines = train(shaping, tmp_path / "run")
    before, after = accuracy(lines[:2]), accuracy(lines[-5:])
    rang = {key for line in lines for key, value in line.items() if key.startswith("alarm/") and value}
    assert before > 0.75 and lines[-1]["length/mean"] < 0.6 * lines[0]["length/mean"]
    if spoiled:
        assert after < before - 0.3
        assert {"alarm/collapse", "alarm/wrong_above_right", "alarm/length_only_wrong"} <= rang
    else:
        assert after > before - 0.05
        assert not rang & {"alarm/collapse", "alarm/wrong_above_right", "alarm/length_only_wrong"}
