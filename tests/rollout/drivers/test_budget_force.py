"""The s1 driver: thought is cut at the budget or told to wait; forced tokens and ends taken off are never trained."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer
from trees import prompt_group

from laconic.errors import ConfigError
from laconic.rollout.drivers import DRIVERS, BudgetForceDriver
from laconic.rollout.engines.fake import ScriptedEngine
from laconic.rollout.engines.transformers import TransformersEngine
from laconic.rollout.records import Kind, Stop
from laconic.rollout.scheduler import run_groups
from laconic.train.model_files import PACKAGED

END, WAIT, CUE = 21, 22, 23
PROMPT = [5, 5]


def driver(**changes):
    fields = {"thinking_tokens": 8, "ignores": 1, "group_size": 1, "max_completion": 16}
    return BudgetForceDriver(**{**fields, "think_end": (END,), "wait": (WAIT,), "answer": (CUE,), **changes})


def roll_out(driver, script):
    seen = []

    def watched(context, request):
        seen.append((request.noise.leaf, request.position, request.max_tokens))
        return script(context, request)

    (group,) = run_groups(driver, ScriptedEngine(watched), [prompt_group(0, PROMPT)], seed=0, step=0)
    return group, seen


def play(driver, *texts):
    text = iter(texts)
    return roll_out(driver, lambda context, request: next(text))


def response(group):
    return group.response_ids(group.leaves[0]).tolist()


def test_published_defaults():
    assert (BudgetForceDriver().thinking_tokens, BudgetForceDriver().ignores) == (32_000, 1)
    assert DRIVERS["budget_force"] is BudgetForceDriver and BudgetForceDriver.flatten == "path"


def test_at_the_budget_the_end_of_thought_and_the_cue_are_forced():
    group, seen = play(driver(), [1, 2, 3, 4] * 3, [9])
    assert response(group) == [1, 2, 3, 4, 1, 2, 3, 4, END, CUE, 9, 0]
    assert [segment.kind for segment in group.segments[1:]] == [Kind.SAMPLED, Kind.FORCED, Kind.SAMPLED]
    assert np.isnan(group.segments[2].logp).all() and group.trained_tokens(group.rollouts[0]) == 10
    assert seen == [(0, 0, 8), (0, 10, 16 - 10)]


def test_an_early_end_is_taken_off_and_the_thought_waits_then_ends_by_itself():
    group, seen = play(driver(), [1, 2, END], [3, END], [9])
    assert response(group) == [1, 2, WAIT, 3, END, 9, 0]
    assert seen == [(0, 0, 8), (0, 3, 8 - 2), (0, 5, 16 - 5)]  # no noise position is drawn from twice
    assert group.trained_tokens(group.rollouts[0]) == 6 and group.cost.decoded == 7


def test_the_budget_wins_over_ignores_that_remain():
    group, _ = play(driver(ignores=5), [1, 2, 3, END], [4] * 20, [9])
    assert response(group) == [1, 2, 3, WAIT, 4, 4, 4, 4, 4, END, CUE, 9, 0]


def test_an_end_that_falls_on_the_budget_leaves_its_own_token_to_wait_with():
    group, seen = play(driver(), [1] * 7 + [END], [2] * 9, [9])
    assert seen[1][2] == 1 and response(group) == [1] * 7 + [WAIT, 2, END, CUE, 9, 0]


def test_an_end_at_once_uses_up_an_ignore_each_time():
    group, _ = play(driver(ignores=2), [END], [END], [END], [9])
    assert response(group) == [WAIT, WAIT, END, 9, 0]


@pytest.mark.parametrize("texts", [([1, 2],), ([1, 2, END], [3])])
def test_a_thought_that_ends_with_eos_is_the_answer(texts):
    group, _ = play(driver(), *texts)
    assert group.segments[group.leaves[0].segment].stop is Stop.EOS and END not in response(group)


def test_no_ignores_only_cap():
    group, _ = play(driver(ignores=0, wait=()), [1, END], [9])
    assert response(group) == [1, END, 9, 0]


def test_an_end_of_thought_inside_an_answer_does_not_stop_it():
    group, _ = play(driver(ignores=0), [1, END], [9, END, 9])
    assert response(group) == [1, END, 9, END, 9, 0]


@given(st.integers(0, 1000), st.integers(0, 3), st.integers(1, 9))
@settings(max_examples=80, deadline=None)
def test_random_stops(seed, ignores, budget):
    def script(context, request):
        rng = random.Random(f"{seed}/{context}/{request.noise.leaf}")
        return rng.choices([1, 2, 3, 4, END], k=rng.randint(0, 12))

    some = driver(ignores=ignores, thinking_tokens=budget, group_size=3)
    group, seen = roll_out(some, script)
    check(group, some)
    places = [
        (group.path(segment.id)[1][0].id, len(group.context_ids(segment.id)) - back)
        for segment in group.segments
        if segment.kind is Kind.SAMPLED
        for back in range(len(segment))
    ]
    assert len(places) == len(set(places)) and {leaf for leaf, _, _ in seen} == {0, 1, 2}


def check(group, driver):
    assert len(group.leaves) == len(group.rollouts) == driver.group_size
    for leaf in group.leaves:
        path = group.path(leaf.segment)[1:]
        ids = group.response_ids(leaf).tolist()
        waits = sum(p.kind is Kind.FORCED and tuple(p.ids.tolist()) == driver.wait for p, _ in path)
        assert waits <= driver.ignores and len(ids) <= driver.max_completion
        end = driver.think_end[0]
        thought = ids[: ids.index(end) + 1] if end in ids else ids
        forced_end = any(p.kind is Kind.FORCED and end in p.ids for p, _ in path)
        assert len(thought) - waits * len(driver.wait) - forced_end <= driver.thinking_tokens
        if end in ids and not forced_end:
            assert waits == driver.ignores
        assert group.trained_length(leaf) == len(ids) - sum(len(p) for p, _ in path if p.kind is Kind.FORCED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"thinking_tokens": 14}, "max_completion 16 - 14 thinking - 3 forced tokens leave -1 for an answer"),
        ({"thinking_tokens": 0}, "rollout.driver.thinking_tokens is 0"),
        ({"ignores": -1}, "rollout.driver.ignores is -1 but must be at least 0"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ConfigError, match=message):
        driver(**changes)


def test_markers_come_from_the_tokenizer_and_the_tiny_thinker_runs():
    folder = PACKAGED["tiny-thinker"]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    fields = {"thinking_tokens": 40, "group_size": 4, "max_completion": 64}
    with pytest.raises(ConfigError, match="call with_tokenizer first"):
        BudgetForceDriver(**fields).start(prompt_group(0, PROMPT))
    for wrong, message in (
        ({}, "wait_text is 'Wait'"),
        ({"wait_text": ""}, "wait_text is empty"),
        ({"wait_text": ";</think>"}, "a thought ends exactly once"),
        ({"wait_text": ";", "think_end_text": ";;"}, "one token only"),
    ):
        with pytest.raises(ConfigError, match=message):
            BudgetForceDriver(**fields, **wrong).with_tokenizer(tokenizer)
    some = BudgetForceDriver(**fields, wait_text=";").with_tokenizer(tokenizer)
    engine = TransformersEngine(model.eval(), [tokenizer.eos_token_id], max_live=16)
    (group,) = run_groups(some, engine, [prompt_group(0, tokenizer.encode("3+4*2>"))], seed=0, step=0)
    check(group, some)
    assert any(segment.kind is Kind.FORCED for segment in group.segments)
