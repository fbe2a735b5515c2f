"""Rewards with a memory: a run that is stopped and started again goes on with what it remembered."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file
from tiny_trainer import stopped_and_resumed

STEPS, STOPPED = 10, 8
"""Thirty problems, four a step: those after the stop have been met before it."""


@pytest.mark.parametrize("method", ["hapo", "o1_pruner", "adaptive_lagrangian"])
def test_a_resumed_run_goes_on_with_the_same_memory(method, make):
    setup = (method, f"steps={STEPS}", "save.every=1", "save.keep=2")
    alone = make(*setup, folder="alone")
    alone.train()
    resumed = stopped_and_resumed(make, *setup, generation=STOPPED)
    assert resumed.reward_states == alone.reward_states
    last = [load_file(run.run_dir / f"checkpoints/step-{STEPS:06}/model.safetensors") for run in (alone, resumed)]
    assert all(last[0][name].equal(last[1][name]) for name in last[0])
