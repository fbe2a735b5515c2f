"""The published failure, small: a length reward without a gate spoils the tiny thinker, the default gate does not.

Both runs are O1-Pruner's with credit that divides by the group's deviation; only the gate differs. Nothing filters on
outcomes, and a group whose rewards have no deviation gives no gradient, so what is trained is what a filter on the
deviation of rewards would keep. Without the gate a short wrong answer scores above a right one, and in groups without a
right answer lengths alone are rewarded: answers become short and wrong. With it they become short.
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
    "steps=12",
    "threads=1",
    "rollout.prompts_per_step=8",
    "rollout.group_size=8",
    "rollout.max_completion=300",
    "credit.name=grpo",
    "optim.lr=1e-3",
    "save.every=100",
    "save.rollouts_every=0",
)
SPOILED = {"alarm/collapse", "alarm/wrong_above_right", "alarm/length_only_wrong"}


def train(gate: str, folder: Path) -> list[dict[str, Any]]:
    settings = load_settings(CONFIGS / "grpo.yaml", [*SMALL, f"reward.shaping={{name: o1_pruner, gate: {gate}}}"])
    run_training(settings, folder, quiet=True)
    return read_metrics(folder / "metrics.jsonl")


def mean(lines: list[dict[str, Any]], key: str) -> float:
    return sum(line[key] for line in lines) / len(lines)


@pytest.mark.parametrize(("gate", "spoiled"), [("none", True), ("correct_only", False)], ids=["ungated", "gated"])
def test_an_ungated_length_reward_collapses_and_the_default_gate_does_not(
    gate: str, spoiled: bool, tmp_path: Path
) -> None:
    lines = train(gate, tmp_path / "run")
    before, after = (mean(part, "outcome/accuracy") for part in (lines[:3], lines[-3:]))
    shorter = mean(lines[-3:], "length/mean") / mean(lines[:3], "length/mean")
    rang = {key for line in lines for key, value in line.items() if key.startswith("alarm/") and value}
    assert before > 0.75 and shorter < 0.75
    if spoiled:
        assert after < before - 0.25 and rang >= SPOILED
    else:
        assert after > before - 0.12 and not rang & SPOILED
