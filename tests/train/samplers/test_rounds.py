"""Samplers in training: rounds of a generation, groups of different sizes, caps that change, and going on after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tiny_trainer import PROBLEMS, Train, even_is_right, stopped_and_resumed

from laconic.errors import RunError
from laconic.rewards.verdict import Item, Judgement, Verdict
from laconic.train.experience import judge
from laconic.train.metrics_log import read_metrics
from laconic.train.rounds import join, sample_rounds
from laconic.train.trainer import LaconicTrainer

STAGES = "[{step: 0, max_completion: 4, group_size: 2}, {step: 1, max_completion: 12, group_size: 4}]"
SMALL = {
    "dynamic": (),
    "gvm": (),
    "curriculum": ("sampler.bands=[{step: 0, hardest: 0.3, easiest: 0.9}]",),
    "context_curriculum": (f"sampler.stages={STAGES}",),
}


def nothing_is_right(items: Sequence[Item]) -> list[Judgement]:
    return [Judgement(Verdict.WRONG) for _ in items]


def kept_of(trainer: LaconicTrainer) -> list:
    """Filled with what each generation trains on."""
    kept, collect = [], trainer._collect
    trainer._collect = lambda: kept.append(collect()) or kept[-1]
    return kept


def lines(trainer: LaconicTrainer) -> list[dict]:
    return read_metrics(trainer.run_dir / "metrics.jsonl")


def test_dynamic_fills_the_batch_in_rounds(make: Train) -> None:
    trainer = make("dynamic", "steps=2", "rollout.group_size=2")
    kept = kept_of(trainer)
    trainer.train()
    for line, experience in zip(lines(trainer), kept, strict=True):
        assert line["groups/sampled"] == 4 * line["sampler/rounds"] and line["sampler/rounds"] > 1
        assert line["groups/kept"] == len(experience.groups) == 4
        assert {len(group.rollouts) for group in experience.groups} == {2}
        ids = [group.id for group in experience.groups]
        assert ids == sorted(set(ids)) and ids[-1] >= 4, "of more than one round"
        assert experience.right_N.reshape(4, 2).sum(1).tolist() == [1] * 4
        assert line["tokens/decoded"] > experience.length_N.sum()


def test_where_rounds_find_nothing_the_update_is_skipped_or_the_run_stops(make: Train) -> None:
    trainer = make("dynamic", "sampler.max_rounds=2", judge=nothing_is_right)
    trainer.train()
    (line,) = lines(trainer)
    assert (line["groups/sampled"], line["groups/kept"], line["sampler/rounds"], line["loss"]) == (8, 0, 2, 0)
    trainer = make("dynamic", "sampler.max_rounds=2", "sampler.at_limit=error", folder="e", judge=nothing_is_right)
    with pytest.raises(RunError, match="0 of 4 groups passed the filter in 2 rounds of 4"):
        trainer.train()


@pytest.mark.parametrize("norm", ["embedding", "sqrt_length"])
def test_gvm_gives_prompts_what_the_pilot_says(make: Train, norm: str) -> None:
    pilot = ("sampler.estimate=pilot", "sampler.pilot=3")
    trainer = make("gvm", *pilot, f"sampler.norm={norm}", "sampler.filter_threshold=1")
    heard, record = [], trainer.sampler.record_outcomes
    trainer.sampler.record_outcomes = lambda outcomes: heard.append(list(outcomes)) or record(outcomes)
    kept = kept_of(trainer)
    trainer.train()
    looked, trained = heard
    assert [outcome.sampled for outcome in looked] == [3] * 4
    assert all((outcome.norm > 0) == (outcome.right > 0) for outcome in looked)
    wanted = trainer.settings.sampler.counts(
        [outcome.norm / max(outcome.right, 1) for outcome in looked], [outcome.right / 3 for outcome in looked], 16
    )
    given = {outcome.problem: outcome.sampled for outcome in trained}
    assert [given.get(outcome.problem, 0) for outcome in looked] == wanted and sum(wanted) == 16
    sizes = {group.problem_id: len(group.rollouts) for group in kept[0].groups}
    assert sizes == {PROBLEMS[index].id: size for index, size in given.items()}
    assert np.isfinite(kept[0].advantage_N).all()
    (line,) = lines(trainer)
    assert line["groups/sampled"] == len(given) and line["sampler/largest_group"] == max(wanted)
    # All that was decoded is counted, the pilot's answers too.
    assert line["tokens/decoded"] == pytest.approx(line["length/mean"] * (3 * 4 + 16))


def test_history_needs_no_pilot(make: Train) -> None:
    trainer = make("gvm", "sampler.norm=sqrt_length", "steps=2")
    trainer.train()
    assert [line["tokens/decoded"] == pytest.approx(16 * line["length/mean"]) for line in lines(trainer)] == [True] * 2
    assert len(trainer.sampler.state_dict()["rates"]) > 0


def test_a_stage_bounds_length_and_group(make: Train) -> None:
    trainer = make("context_curriculum", "steps=2", *SMALL["context_curriculum"])
    kept = kept_of(trainer)
    trainer.train()
    assert [{len(group.rollouts) for group in experience.groups} for experience in kept] == [{2}, {4}]
    assert kept[0].length_N.max() == 4 < kept[1].length_N.max() <= 12
    assert kept[0].truncated_N.tolist() == (kept[0].length_N == 4).tolist(), "at the stage's cap, not at the section's"
    assert [line["sampler/max_completion"] for line in lines(trainer)] == [4, 12]


@pytest.mark.parametrize("method", SMALL)
def test_a_run_stopped_and_resumed_equals_one_in_one_go(make: Train, method: str) -> None:
    setup = (method, "steps=3", "save.every=1", *SMALL[method])
    alone = make(*setup, folder="alone")
    alone.train()
    again = stopped_and_resumed(make, *setup, generation=2)
    one, two = alone.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert alone.sampler.state_dict() == again.sampler.state_dict()
    keys = ("step", "loss", "prompt_ids_hash", "groups/sampled", *alone.sampler.metrics())
    assert [[line[key] for key in keys] for line in lines(alone)] == [
        [line[key] for key in keys] for line in lines(again)
    ]


def test_experiences_of_rounds_are_joined_in_their_order(make: Train) -> None:
    trainer = make("dynamic", "rollout.group_size=2")
    sampled = sample_rounds(trainer)
    whole = judge(sampled.groups, trainer.problem_by_id, trainer._tokenizer, even_is_right)
    assert [group.id for group in sampled.candidates.groups] == list(range(len(sampled.groups)))
    np.testing.assert_array_equal(sampled.candidates.right_N, whole.right_N)
    assert sampled.passed == sorted(set(sampled.passed)) and len(sampled.passed) >= 4
    halves = join([whole.only({0, 1}), whole.only(set(range(2, len(whole.groups))))])
    assert halves.groups == whole.groups and halves.judgement_N == whole.judgement_N
