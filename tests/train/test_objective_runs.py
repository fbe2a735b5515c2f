"""Every objective trains from its configuration, and imitation counts what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from safetensors.torch import load_file
from tiny_trainer import stopped_and_resumed

from laconic.rewards.verdict import Judgement, Verdict
from laconic.train.experience import Experience, imitation
from laconic.train.methods import METHODS
from laconic.train.metrics_log import read_metrics
from laconic.train.rows import flatten, to_packs

OBJECTIVE_IDS = [method.id for method in METHODS if method.stage == "objective"]


@pytest.mark.parametrize("method", OBJECTIVE_IDS)
def test_two_steps_from_its_configuration_move_the_policy(method, make):
    trainer = make(method, "steps=2", "sampler.filter=none")
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    lines = read_metrics(trainer.run_dir / "metrics.jsonl")
    assert len(lines) == 2 and all(math.isfinite(line["loss"]) and line["grad_norm"] > 0 for line in lines)
    moved = [name for name, value in trainer.model.named_parameters() if not value.equal(before[name])]
    assert any(name.startswith("model.layers") for name in moved)


def test_a_critic_alone_leaves_the_policy_as_it_was(make):
    trainer = make("vcppo", "steps=2", "objective.value_warmup=2")
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, value in trainer.model.named_parameters() if not value.equal(before[name])}
    assert moved == {"value_head.layers.weight", "value_head.layers.bias"}


def test_a_resumed_run_goes_on_with_the_same_critic(make):
    method = ("vapo", "steps=3", "objective.value_warmup=1", "objective.value_width=4", "save.every=1", "save.keep=5")
    alone = make(*method, folder="alone")
    alone.train()
    resumed = stopped_and_resumed(make, *method, generation=2)
    last = [load_file(run.run_dir / "checkpoints/step-000003/model.safetensors") for run in (alone, resumed)]
    assert last[0].keys() == last[1].keys() and "value_head.layers.2.weight" in last[0]
    assert all(last[0][name].equal(last[1][name]) for name in last[0])


def experience_of(groups, right) -> Experience:
    judgements = tuple(Judgement(Verdict.RIGHT if one else Verdict.WRONG) for one in right)
    return Experience(tuple(groups), judgements, np.zeros(len(right), dtype=bool))


def test_imitation_is_a_mean_over_the_tokens_of_right_rollouts_of_all_ranks(flat_groups):
    experience = experience_of(flat_groups(0, [[5, 9, 1], [3]]), [1, 0, 1, 1])
    np.testing.assert_allclose(imitation(experience, 0.1), [0.1 / 9, 0, 0.1 / 9, 0.1 / 9])
    np.testing.assert_allclose(imitation(experience, 0.1, lambda own: [own, 11])[0], 0.1 / 20)
    assert imitation(experience, 0.0) is None
    assert imitation(experience_of(flat_groups(0, [[5, 9]]), [0, 0]), 0.1).tolist() == [0, 0]


def test_imitated_rows_are_kept_without_an_advantage(flat_groups):
    groups = flat_groups(0, [[5, 9, 1]])
    rows = flatten(groups, [0, 0, 0], normalizer="token_mean", max_completion=24, nll_N=[0.02, 0, 0.02])
    packs = to_packs(rows, 1000)
    assert [int(row.trained.sum()) for row in rows] == [5, 1]
    assert sum(pack.w_nll.sum() for pack in packs) == pytest.approx(0.02 * 6)
    assert not any(pack.w_pos.any() or pack.w_neg.any() for pack in packs)
