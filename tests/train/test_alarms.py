"""Alarms ring when a run is spoiled, once in the terminal, and go on after a resume."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hand_made import experience_of, group_of

from laconic.eval.tasks import Problem
from laconic.rewards.shaping import KimiLength
from laconic.train.alarms import IDLE, RULES, WINDOW, Alarms
from laconic.train.credit import DrGrpo
from laconic.train.experience import credit, shape
from laconic.train.generation_metrics import (
    difficulty_bands,
    facts_of,
    flat_groups,
    outcome_metrics,
    repeated,
    term_metrics,
    training_metrics,
    within_groups,
)
from laconic.train.settings import RewardSettings
from laconic.train.thinker.tokenizer import build_tokenizer

HEALTHY = {
    "reward/wrong_above_right": 0.0, "reward/length_only_wrong": 0.0, "outcome/accuracy": 0.6, "length/mean": 100.0,
    "length/outcome_correlation": -0.2, "length/truncated": 0.1, "thought/short": 0.0, "length/repeated": 0.1,
    "policy/entropy": 0.5, "reward/flat_groups": 0.3, "reward/active_kimi_length": 0.5, "length/max": 300.0,
    "groups/kept": 8,
}  # fmt: skip
SPOILED: dict[str, dict[str, float]] = {
    "wrong_above_right": {"reward/wrong_above_right": 0.1},
    "length_only_wrong": {"reward/length_only_wrong": 0.1},
    "collapse": {"outcome/accuracy": 0.3, "length/mean": 20.0},
    "short_is_wrong": {"length/outcome_correlation": 0.4},
    "truncated": {"length/truncated": 0.9},
    "no_thought": {"thought/short": 0.9},
    "repetition": {"length/repeated": 0.9},
    "entropy": {"policy/entropy": 0.01},
    "no_signal": {"reward/flat_groups": 1.0},
}


def test_every_rule_has_its_case() -> None:
    assert {rule.name for rule in RULES} == {*SPOILED}


@pytest.mark.parametrize("name", SPOILED)
def test_an_alarm_rings_for_its_own_sign_only_and_is_told_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    alarms = Alarms(("kimi_length",))
    for _ in range(WINDOW):
        assert not any(alarms.judge(HEALTHY).values())
    with caplog.at_level(logging.WARNING):
        for _ in range(2 * WINDOW):
            found = alarms.judge(HEALTHY | SPOILED[name])
    assert [key for key, value in found.items() if value] == [f"alarm/{name}"]
    assert len(caplog.records) == 1 and caplog.records[0].getMessage().startswith(f"alarm/{name}: ")


def test_shorter_answers_that_stay_right_are_no_collapse() -> None:
    alarms = Alarms()
    for _ in range(WINDOW):
        alarms.judge(HEALTHY)
    for _ in range(2 * WINDOW):
        found = alarms.judge(HEALTHY | {"length/mean": 20.0})
    assert not any(found.values())


def test_what_is_not_known_rings_nothing() -> None:
    alarms = Alarms()
    for _ in range(3 * WINDOW):
        found = alarms.judge(dict.fromkeys(HEALTHY, float("nan")))
    assert not any(found.values()) and not any(Alarms().judge({}).values())


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "got equal rewards (the longest had 300 tokens)"),
        ({"outcome/accuracy": 0.0}, "no answer was right"),
        ({"groups/kept": 0}, "no group passed the filter"),
    ],
)
def test_a_term_without_effect_is_told_with_the_reason(
    more: dict[str, float], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    alarms = Alarms(("kimi_length",))
    idle = HEALTHY | {"reward/active_kimi_length": 0.0} | more
    with caplog.at_level(logging.WARNING):
        rang = [alarms.judge(idle)["alarm/idle"] for _ in range(IDLE + 1)]
    assert rang == [0.0] * (IDLE - 1) + [1.0, 1.0]
    assert any(reason in record.getMessage() for record in caplog.records)
    assert alarms.judge(HEALTHY)["alarm/idle"] == 0.0


def test_alarms_go_on_from_their_state_as_if_nothing_had_happened() -> None:
    rng = np.random.default_rng(0)
    lines = [HEALTHY | SPOILED[name] for name in rng.choice(list(SPOILED), 12)]
    whole, first = Alarms(("kimi_length",)), Alarms(("kimi_length",))
    expected = [whole.judge(line, speak=False) for line in lines]
    found = [first.judge(line, speak=False) for line in lines[:5]]
    second = Alarms(("kimi_length",))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert found + [second.judge(line, speak=False) for line in lines[5:]] == expected


# the metrics they look at


def test_the_metrics_of_a_trained_generation_hold_what_alarms_look_at() -> None:
    reward = RewardSettings(shaping=KimiLength(gate="sign_split"))
    groups = [[(3, True), (9, True), (5, False)], [(4, False), (8, False)], [(6, True), (6, True)]]
    kept = credit(shape(experience_of(*groups), reward), DrGrpo(), reward)
    metrics: dict[str, Any] = training_metrics(facts_of(kept), facts_of(kept)) | outcome_metrics(facts_of(kept))
    metrics |= term_metrics(facts_of(kept), ["kimi_length"])
    assert metrics["reward/length_only_wrong"] == pytest.approx(1 / 3)
    assert metrics["reward/flat_groups"] == pytest.approx(1 / 3)
    assert metrics["reward/active_kimi_length"] == pytest.approx(2 / 3)
    # Parts of right answers 0.2, -0.2, 0, 0; of wrong ones 0 in the shorter half of a group, else -0.2.
    assert metrics["reward/part_right_kimi_length"] == pytest.approx(0.0, abs=1e-12)
    assert metrics["reward/part_wrong_kimi_length"] == pytest.approx(-0.2 / 3)
    looked = {key for rule in RULES for key in rule.keys} - {"policy/entropy"}
    assert looked <= set(metrics)


def test_correlation_of_length_and_outcome_is_within_groups() -> None:
    length, right, group = np.array([1, 2, 11, 12.0]), np.array([0, 1, 0, 1], bool), np.array([0, 0, 1, 1])
    assert within_groups(length, right, group) == pytest.approx(1.0)
    assert within_groups(-length, right, group) == pytest.approx(-1.0)
    assert np.isnan(within_groups(length, np.ones(4, bool), group))
    assert np.isnan(within_groups(length[:0], right[:0], group[:0]))
    # Rewards less their groups' means -1, 1 and 2, -2, lengths -0.5, 0.5 twice: -1 / sqrt(10).
    assert within_groups(length, np.array([0, 2, 5, 1.0]), group) == pytest.approx(-1 / np.sqrt(10))


def test_repetition_is_the_share_of_ngrams_that_were_there_before() -> None:
    assert repeated(np.arange(50, dtype=np.int32)) == 0.0 == repeated(np.arange(3, dtype=np.int32))
    assert repeated(np.tile(np.arange(10, dtype=np.int32), 3)) == pytest.approx(1 - 10 / 23)
    assert repeated(np.zeros(20, np.int32)) == pytest.approx(1 - 1 / 13)


def test_groups_of_nearly_equal_rewards_are_flat() -> None:
    assert flat_groups(np.array([1, 1, 0, 1, 1, 1 + 1e-5]), np.array([0, 0, 1, 1, 2, 2])) == pytest.approx(2 / 3)


def test_problems_fall_into_thirds_by_difficulty() -> None:
    problems = [Problem(str(n), "q", "1", "s", level) for n, level in enumerate([1, 1, 2, 2, 3, 3, None])]
    assert difficulty_bands(problems) == {"0": 0, "1": 0, "2": 1, "3": 1, "4": 2, "5": 2}
    assert difficulty_bands(problems[:2]) == difficulty_bands(problems[6:]) == {}


def test_thoughts_are_counted_before_their_last_end() -> None:
    tokenizer = build_tokenizer()
    texts = ["<think>1+2=3</think>3<eos>", "<think></think>3<eos>", "</think>3<eos>", "<think>1+2", "1+2</think>3"]
    encoded = [np.array(tokenizer(text)["input_ids"], np.int32) for text in texts]
    experience = experience_of([(len(ids), True) for ids in encoded])
    (group,) = experience.groups
    segments = [one if not one.id else type(one)(
        one.id, 0, 2, one.kind, encoded[one.id - 1], np.full(len(encoded[one.id - 1]), -1.0, np.float32), one.stop
    ) for one in group_of([(1, True)] * 5).segments]  # fmt: skip
    changed = group.replace(segments=tuple(segments))
    thought_N = facts_of(replace(experience, groups=(changed,)), tokenizer).thought_N
    np.testing.assert_array_equal(thought_N, [5, 0, 0, np.nan, 3])
    metrics = outcome_metrics(facts_of(replace(experience, groups=(changed,)), tokenizer))
    assert (metrics["thought/none"], metrics["thought/open"], metrics["thought/short"]) == (0.4, 0.2, 0.8)
