"""Samplers: order of prompts, how many of them, and state that survives JSON."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import ConfigError, DataError
from laconic.train.samplers import SAMPLERS, Outcome, Pds, Round, Uniform


def pds_after(*rates: float, **options: float):
    sampler = Pds(**options).build(1000, seed=0)
    for rate in rates:
        sampler.record(passed=round(rate * 1000), sampled=1000)
    return sampler


def one_generation(sampler: Any, generation: int, right: int) -> list[Round]:
    """Run the sampler's part of a generation in which ``right`` of 12 answers to each problem are right."""
    asked = []
    sampler.begin(generation)
    ask, passed = sampler.ask(4, 12), 0
    while ask is not None:
        asked.append(ask)
        sampler.record_outcomes(
            [
                Outcome(index, size, min(right, size), norm=2.0 * right)
                for index, size in zip(ask.indices, ask.sizes, strict=True)
            ]
        )
        passed += sum(0 < right < size for size in ask.sizes) if ask.trained else 0
        ask = sampler.ask_again(4, 12, passed)
    sampler.record(min(passed, 4), sampled=4)
    return asked


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
    for generation, right in enumerate(rates):
        one_generation(sampler, generation, right)
    resumed.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert resumed.to_sample(77) == sampler.to_sample(77)
    for right in (0, 7, 12):
        assert one_generation(resumed, len(rates), right) == one_generation(sampler, len(rates), right)
    assert resumed.draw(45) == sampler.draw(45)
    assert resumed.state_dict() == sampler.state_dict()


@pytest.mark.parametrize("method", SAMPLERS.values())
def test_a_generation_asks_for_problems_that_exist_and_answers_to_compare(method):
    sampler = method().build(30, seed=1)
    for generation in range(6):
        for ask in one_generation(sampler, generation, right=3 * generation):
            assert len(ask.indices) == len(ask.sizes) and set(ask.indices) <= set(range(30))
            assert min(ask.sizes) >= 2 and sampler.longest(24576) <= 24576
        assert all(isinstance(value, int | float) for value in sampler.metrics().values())


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
