"""The InftyThink driver: a round sees the prompt and the last summary alone, and every token is trained once."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer
from trees import prompt_group

from laconic.errors import ConfigError
from laconic.rollout.drivers import DRIVERS, SummaryDriver
from laconic.rollout.engines.fake import ScriptedEngine
from laconic.rollout.engines.transformers import TransformersEngine
from laconic.rollout.records import Kind, Stop
from laconic.rollout.scheduler import run_groups
from laconic.train.model_files import PACKAGED
from laconic.train.rows import flatten

OPEN, CLOSE, HISTORY, ENDED = 21, 22, 23, 24
PROMPT = [5, 5]


def driver(**changes):
    fields = {"round_tokens": 8, "max_rounds": 3, "group_size": 1, "max_completion": 99}
    marks = {"summary_open": (OPEN,), "summary_close": (CLOSE,), "history_open": (HISTORY,), "history_close": (ENDED,)}
    return SummaryDriver(**{**fields, **marks, **changes})


def roll_out(driver, script):
    (group,) = run_groups(driver, ScriptedEngine(script), [prompt_group(0, PROMPT)], seed=0, step=0)
    return group


def play(driver, *texts):
    text = iter(texts)
    return roll_out(driver, lambda context, request: next(text))


def rounds(group, rollout=0):
    return [group.segments[group.leaves[leaf].segment] for leaf in group.rollouts[rollout].leaves]


def seen(group, part):
    return group.context_ids(part.parent)[len(PROMPT) :].tolist()


def test_the_next_round_sees_only_the_last_summary_between_history_marks():
    group = play(driver(), [1, 2, OPEN, 3, 4, CLOSE], [6, OPEN, 7, CLOSE], [8, 9])
    parts = rounds(group)
    assert [seen(group, part) for part in parts] == [[], [HISTORY, 3, 4, ENDED], [HISTORY, 7, ENDED]]
    kinds = [segment.kind for segment in group.segments[2:6]]
    assert kinds == [Kind.FORCED, Kind.CONTEXT_COPY, Kind.FORCED, Kind.SAMPLED]
    assert parts[-1].ids.tolist() == [8, 9, 0] and parts[-1].stop is Stop.EOS
    assert group.trained_tokens(group.rollouts[0]) == 6 + 4 + 3 == group.cost.decoded
    rows = flatten([group], [1.0], normalizer="row_mean", max_completion=99)
    assert [int(np.isfinite(row.old_logp).sum()) for row in rows] == [6, 4, 3]  # a copied summary is not trained again


def test_the_last_opening_mark_counts_and_may_be_several_tokens():
    group = play(driver(summary_open=(OPEN, 1)), [OPEN, 1, 2, OPEN, 1, 3, CLOSE], [9])
    assert seen(group, rounds(group)[1]) == [HISTORY, 3, ENDED]


def test_an_empty_summary_is_a_summary():
    group = play(driver(), [1, OPEN, CLOSE], [OPEN, 2, CLOSE], [9])
    assert [seen(group, part) for part in rounds(group)] == [[], [HISTORY, ENDED], [HISTORY, 2, ENDED]]


@pytest.mark.parametrize("text", [[1, 2, CLOSE], [1, 2, 3, 4, 5, OPEN, 6, 7, 8]])
def test_a_round_without_a_whole_summary_ends_the_trajectory_as_truncated(text):
    group = play(driver(), text)
    assert len(rounds(group)) == 1 and group.truncated(group.leaves[0])


def test_rounds_run_out():
    group = play(driver(max_rounds=2), *[[1, OPEN, 2, CLOSE]] * 2)
    assert [part.stop for part in rounds(group)] == [Stop.STOP_TOKEN, Stop.LENGTH] and group.truncated(group.leaves[1])


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(3, 10))
@settings(max_examples=80, deadline=None)
def test_random_stops(seed, most, tokens):
    def script(context, request):
        rng = random.Random(f"{seed}/{context}/{request.noise.leaf}")
        return rng.choices([1, 2, 3, OPEN, OPEN, CLOSE], k=rng.randint(0, 12))

    check(roll_out(some := driver(max_rounds=most, round_tokens=tokens, group_size=3), script), some)


def check(group, driver):
    assert len(group.rollouts) == driver.group_size
    for number, rollout in enumerate(group.rollouts):
        parts = rounds(group, number)
        assert len(parts) <= driver.max_rounds
        for before, part in zip(parts, parts[1:], strict=False):
            ids = before.ids.tolist()
            start = len(ids) - ids[::-1].index(driver.summary_open[0])
            assert ids[-1] == driver.summary_close[0]
            kept = [*driver.history_open, *ids[start:-1], *driver.history_close]
            prompt = len(group.segments[0])
            assert group.context_ids(part.parent)[prompt:].tolist() == kept
            assert len(kept) + len(part) <= driver.longest_context
        assert parts[-1].stop in (Stop.EOS, Stop.LENGTH)
        assert group.trained_tokens(rollout) == sum(map(len, parts))
    assert sum(map(group.trained_tokens, group.rollouts)) == group.cost.decoded


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_rounds": 20}, "20 rounds of 8 tokens are 160 but rollout.max_completion is 99"),
        ({"round_tokens": 2}, r"a round of 2 tokens has no room beside the 1 \+ 1 = 2"),
        ({"max_rounds": 0}, "rollout.driver.max_rounds is 0"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ConfigError, match=message):
        driver(**changes)


@pytest.mark.parametrize("history", ["@", ";@;@;@"])
def test_a_context_is_never_longer_than_what_is_planned_for_before_the_tokenizer_is_known(history):
    tokenizer = AutoTokenizer.from_pretrained(PACKAGED["tiny-thinker"])
    texts = {"summary_open_text": ",", "summary_close_text": ";", "history_open_text": history}
    plain = SummaryDriver(30, 3, **texts, history_close_text=history, group_size=4, max_completion=90)
    known = plain.with_tokenizer(tokenizer)
    assert known.longest_context == 2 * len(history) + 30 - 2 + 30 <= plain.longest_context
    assert SummaryDriver(30, 1).longest_context == 30


def test_markers_come_from_the_tokenizer_and_the_tiny_thinker_runs():
    folder = PACKAGED["tiny-thinker"]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    plain = SummaryDriver(round_tokens=30, max_rounds=3, group_size=4, max_completion=90)
    assert DRIVERS["summary"] is SummaryDriver
    with pytest.raises(ConfigError, match="call with_tokenizer first"):
        plain.start(prompt_group(0, PROMPT))
    with pytest.raises(ConfigError, match="summary_open_text"):
        plain.with_tokenizer(tokenizer)

    def marked(close):
        texts = {"summary_open_text": "+", "summary_close_text": close}
        both = {"history_open_text": "@", "history_close_text": "@"}
        return SummaryDriver(30, 3, **texts, **both, group_size=4, max_completion=90).with_tokenizer(tokenizer)

    with pytest.raises(ConfigError, match="2 tokens of this tokenizer, but a call can stop at one token only"):
        marked(";;")
    some = marked("=")
    engine = TransformersEngine(model.eval(), [tokenizer.eos_token_id], max_live=16)
    group = prompt_group(0, tokenizer.encode("3+4*2>"))
    (group,) = run_groups(some, engine, [group], seed=0, step=0)
    check(group, some)
    assert any(segment.kind is Kind.CONTEXT_COPY for segment in group.segments)
