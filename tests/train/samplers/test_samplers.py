"""Samplers: order of prompts, how many of them, and state that survives JSON."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import ConfigError, DataError
from laconic.train.samplers import SAMPLERS, Pds, Uniform


def pds_after(*rates: float, **options: float):
    sampler = Pds(**options).build(1000, seed=0)
    for rate in rates:
        sampler.record(passed=round(rate * 1000), sampled=1000)
    return sampler


def test_worked_numbers_of_the_factor():
    sampler = pds_after(0.5, 0.4, 0.6)
    assert sampler.factor == pytest.approx(2.163299, abs=5e-7)
    assert sampler.to_sample(128) == 276
    assert pds_after(1, 1).to_sample(128) == 153


def test_the_first_step_uses_the_initial_factor_and_a_hopeless_history_the_largest():
    assert pds_after().to_sample(128) == 192
    assert pds_after(0, 0).to_sample(8) == 40
    assert pds_after(0.01).factor == 5.0


def test_only_the_last_steps_of_the_window_count():
    assert pds_after(0, 0, 0.5, 0.5, window=2).factor == 2.0
    assert pds_after(0, *[0.5] * 20).factor == 2.0


def test_uniform_samples_what_is_trained_whatever_passed():
    sampler = Uniform().build(10, seed=0)
    sampler.record(passed=1, sampled=8)
    assert sampler.to_sample(8) == 8


@pytest.mark.parametrize("method", SAMPLERS.values())
def test_every_epoch_holds_every_problem_once_and_epochs_differ(method):
    sampler = method().build(50, seed=3)
    first, second = sampler.draw(50), sampler.draw(50)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


def test_the_order_depends_on_the_seed():
    assert Uniform().build(50, seed=1).draw(50) != Uniform().build(50, seed=2).draw(50)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, 30), st.integers(0, 5), st.lists(st.integers(0, 40), min_size=1, max_size=8))
def test_how_draws_are_cut_does_not_change_the_order(problems, seed, counts):
    parts, whole = Uniform().build(problems, seed), Uniform().build(problems, seed)
    drawn = [index for count in counts for index in parts.draw(count)]
    assert drawn == whole.draw(sum(counts))
    uses = Counter(drawn)
    assert not uses or max(uses.values()) - min(uses[i] for i in range(problems)) <= 1


@pytest.mark.parametrize("method", SAMPLERS.values())
@settings(max_examples=25, deadline=None, derandomize=True)
@given(rates=st.lists(st.integers(0, 12), max_size=25), count=st.integers(0, 70))
def test_a_saved_sampler_goes_on_exactly_where_it_was(method, rates, count):
    sampler, resumed = method().build(30, seed=1), method().build(30, seed=1)
    sampler.draw(count)
    for passed in rates:
        sampler.record(passed, sampled=12)
    resumed.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert resumed.to_sample(77) == sampler.to_sample(77)
    assert resumed.draw(45) == sampler.draw(45)
    assert resumed.state_dict() == sampler.state_dict()


@pytest.mark.parametrize(("problems", "seed", "word"), [(31, 1, "problems"), (30, 2, "seed")])
def test_a_state_of_other_problems_or_another_seed_is_refused(problems, seed, word):
    state = Uniform().build(30, seed=1).state_dict()
    with pytest.raises(DataError, match=word):
        Uniform().build(problems, seed).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"window": 0}, "window"),
        ({"min_factor": 0.9}, "min_factor"),
        ({"initial_factor": 6}, "initial_factor"),
        ({"max_factor": 1.1}, "max_factor"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(options, word):
    with pytest.raises(ConfigError, match=word):
        Pds(**options)


def test_a_task_without_problems_is_refused():
    with pytest.raises(DataError, match="at least one"):
        Uniform().build(0, seed=1)


def test_more_groups_cannot_pass_than_were_sampled():
    with pytest.raises(ValueError, match="cannot have passed"):
        pds_after().record(passed=3, sampled=2)
