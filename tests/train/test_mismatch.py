"""Trust between engine and trainer: worked numbers, an engine that lies, and tokens of older policies."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from laconic.errors import ConfigError, RunError
from laconic.rollout.engines.transformers import TransformersEngine
from laconic.rollout.records import Group, Kind, Leaf, Rollout, Segment, Stop, prompt_group
from laconic.train.checks import check_settings
from laconic.train.mismatch import FLOAT32, HALF, Limits, Mismatch, Trust, compare
from laconic.train.packed import PackedBatch
from laconic.train.ranks import Ranks
from laconic.train.rows import flatten, to_packs
from laconic.train.settings import RolloutSettings, Settings


def pack_of(logp, earlier=(), version=7) -> PackedBatch:
    """One answer of tokens with these engine log-probs, the first of them by older policies."""
    group = prompt_group(0, "p", [1, 2])
    ids = np.arange(len(logp), dtype=np.int32)
    answer = Segment(1, 0, 2, Kind.SAMPLED, ids, np.array(logp, np.float32), Stop.EOS, policy_version=version)
    answer = replace(answer, earlier=earlier)
    group = Group(0, "p", (*group.segments, answer), (Leaf(0, 1),), (Rollout((0,)),))
    group.validate()
    (pack,) = to_packs(flatten([group], [1.0], normalizer="row_mean", max_completion=9), 100)
    return pack


def seen(pack: PackedBatch, trainer_logp, version=7) -> Mismatch:
    index_M = np.flatnonzero(pack.scored)
    return compare(pack, index_M, torch.tensor(trainer_logp, dtype=torch.float64, requires_grad=True), version)


def test_worked_numbers():
    found = seen(pack_of([-1.0, -2.0, -0.5]), [-1.0, -2.0 + math.log(2), -0.5 - math.log(4)])
    metrics = found.metrics(Limits(alarm=0.5, stop=1.0))
    assert metrics == {
        "mismatch/mean": pytest.approx((math.log(2) + math.log(4)) / 3),
        "mismatch/max": pytest.approx(math.log(4)),
        # e^d - d - 1: 0, 2 - log 2 - 1, 1/4 + log 4 - 1
        "mismatch/kl": pytest.approx((2 - math.log(2) - 1 + 0.25 + math.log(4) - 1) / 3),
        "mismatch/ratio_min": pytest.approx(0.25),
        "mismatch/ratio_max": pytest.approx(2.0),
        "mismatch/alarm": 1.0,
    }


def test_packs_add_up_to_one():
    whole = seen(pack_of([-1.0, -2.0, -0.5]), [-1.5, -2.25, -0.25])
    parts = seen(pack_of([-1.0]), [-1.5]) + seen(pack_of([-2.0, -0.5]), [-2.25, -0.25])
    assert sum([parts], Mismatch()) == whole


def test_tokens_of_older_policies_are_left_out():
    # The first two tokens were decoded before the last weights came, and differ for that reason.
    found = seen(pack_of([-1.0, -2.0, -0.5], earlier=((5, 1), (6, 1))), [-9.0, -9.0, -0.5])
    assert (found.tokens, found.mean) == (1, 0.0)
    none = seen(pack_of([-1.0, -2.0]), [-9.0, -9.0], version=8)
    assert none == Mismatch() and math.isnan(none.metrics(FLOAT32)["mismatch/mean"])


def trust_of(*, dtype=torch.float32, autocast=False, **settings) -> Trust:
    return Trust(RolloutSettings(**settings), nn.Linear(2, 2, dtype=dtype), autocast=autocast)


def test_limits_follow_the_numbers_that_are_computed_with():
    assert trust_of().limits == FLOAT32
    assert trust_of(dtype=torch.bfloat16).limits == trust_of(autocast=True).limits == HALF
    assert trust_of(autocast=True, mismatch_stop=9.0).limits == Limits(HALF.alarm, 9.0)


def test_a_run_warns_once_and_stops_above_the_second_limit(caplog):
    trust = trust_of(mismatch_alarm=0.1, mismatch_stop=0.4)
    pack, index_M = pack_of([-1.0, -1.0]), np.array([2, 3])

    def judged(difference: float) -> float:
        trust.see(pack, index_M, torch.full((2,), -1.0 + difference), 7)
        return trust.judge(Ranks())["mismatch/alarm"]

    assert [judged(0.05), judged(0.2), judged(-0.3), judged(0.0)] == [0, 1, 1, 0]
    (warning,) = caplog.messages
    assert "disagree by 0.2 nats" in warning and "rollout.mismatch_alarm = 0.1" in warning
    for difference in (0.5, math.nan):
        with pytest.raises(RunError, match=r"mismatch_stop = 0\.4.*rollout\.engine=transformers"):
            judged(difference)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (dict(mismatch_alarm=0.0), "mismatch_alarm is 0 but must be above 0"),
        (dict(mismatch_stop=-1.0), "mismatch_stop is -1 but must be above 0"),
        (dict(mismatch_alarm=0.2, mismatch_stop=0.1), "0.2 is above rollout.mismatch_stop 0.1"),
    ],
)
def test_limits_that_cannot_be_meant_are_refused(limits, message):
    with pytest.raises(ConfigError, match=message):
        check_settings(Settings("tiny-thinker", rollout=RolloutSettings(**limits)), None)


def lines(trainer) -> list[dict]:
    return [json.loads(line) for line in (trainer.run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("old", ["engine", "recompute"])
def test_every_step_measures_it_before_its_first_update(make, old, monkeypatch):
    seen_at = []
    trainer = make("grpo", "steps=2", "optim.updates_per_batch=2", f"objective.old={old}")
    see = trainer.trust.see
    monkeypatch.setattr(trainer.trust, "see", lambda *args: seen_at.append(trainer.state.global_step) or see(*args))
    trainer.train()
    assert {*seen_at} == {0, 2}
    for line in lines(trainer):
        assert line["mismatch/max"] < 1e-4 and line["mismatch/alarm"] == 0
        assert line["mismatch/ratio_min"] <= line["mismatch/ratio_max"] < 1.001
        if old == "recompute":
            assert line["policy/importance"] == pytest.approx(1, abs=1e-4) and line["policy/importance_capped"] == 0


def test_an_engine_that_keeps_old_weights_stops_the_run(make, monkeypatch):
    trainer = make("grpo", "steps=3", "optim.lr=0.1")
    stale = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    step = TransformersEngine.step

    def with_old_weights(engine):
        now = [parameter.data for parameter in trainer.model.parameters()]
        for parameter, old in zip(trainer.model.parameters(), stale, strict=True):
            parameter.data = old
        try:
            return step(engine)
        finally:
            for parameter, new in zip(trainer.model.parameters(), now, strict=True):
                parameter.data = new

    monkeypatch.setattr(TransformersEngine, "step", with_old_weights)
    with pytest.raises(RunError, match="disagree by .* nats per token"):
        trainer.train()
    assert trainer.state.global_step == 1, "the first generation is on-policy; the second must not be trained on"
