"""Worked numbers of the lazy length reward: its dead zone, the step at its edge, and the switch on accuracy."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from laconic.errors import ConfigError
from laconic.rewards.shaping import Responses
from laconic.rewards.shaping.short_rl import ShortRl, length_term

FULL = ShortRl(weight=1.0)


def near(*values: float) -> object:
    return pytest.approx(values, abs=5e-5)


def responses(right_N: list[int], length_N: list[int], best: float = 0.0, **more: object) -> Responses:
    return Responses.of(right_N, length_N, state={"best_accuracy": best}, **more)


def test_published_length_terms() -> None:
    assert length_term(np.ones(3, bool), np.array([200.0, 400, 800]), 100) == near(0.5, 0.1667, -0.5)


def test_the_dead_zone_ends_in_a_step() -> None:
    term_G = length_term(np.ones(4, bool), np.array([200.0, 300, 301, 800]), 100)
    assert term_G == pytest.approx([0.5, 0.5, 0.332, -0.5], abs=5e-4)


def test_wrong_responses_get_nothing_and_set_no_scale() -> None:
    assert FULL(responses([1, 1, 1, 0], [200, 400, 800, 90_000])) == near(1.5, 1.1667, 0.5, 0.0)
    assert FULL(responses([0, 0], [200, 9000])).tolist() == [0.0, 0.0]


def test_each_group_has_a_scale_of_its_own() -> None:
    reward_N = FULL(responses([1, 1, 1, 1], [0, 5000, 1000, 7000], group_N=[4, 2, 4, 2]))
    assert reward_N == near(1.5, 1.5, 0.5, 0.5)


def test_equal_lengths_and_one_response_are_the_shortest() -> None:
    assert FULL(responses([1, 1], [700, 700])) == near(1.5, 1.5)
    assert FULL(responses([1], [0])) == near(1.5)


@pytest.mark.parametrize(("best", "active"), [(0.0, True), (0.75, True), (0.8, True), (0.81, False), (1.0, False)])
def test_length_counts_while_the_whole_batch_is_about_as_accurate_as_ever(best: float, active: bool) -> None:
    batch = responses([1, 1, 1, 0], [200, 400, 800, 600], best, group_N=[0, 0, 1, 1])
    assert FULL.active(batch) is active
    assert (FULL(batch).tolist() != [1.0, 1.0, 1.0, 0.0]) is active


def test_the_best_accuracy_is_remembered_and_a_worse_batch_does_not_lower_it() -> None:
    state = FULL.first_state()
    for right_N, best in (([1, 0], 0.5), ([0, 0], 0.5), ([1, 1], 1.0), ([1, 0], 1.0)):
        batch = replace(responses(right_N, [5, 9]), state=state)
        state = FULL.next_state(batch)
        assert state == {"best_accuracy": best}


def test_a_dead_zone_that_holds_every_answer_is_refused() -> None:
    ShortRl(tolerance=639).check(SimpleNamespace(max_completion=640))
    with pytest.raises(ConfigError, match="tolerance of short_rl is 640"):
        ShortRl(tolerance=640).check(SimpleNamespace(max_completion=640))


@pytest.mark.parametrize("settings", [{"weight": 0.0}, {"weight": 1.1}, {"tolerance": -1}, {"accuracy_tolerance": 1.5}])
def test_settings_that_break_an_invariant_or_do_nothing_are_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match=f"short_rl.{next(iter(settings))}"):
        ShortRl(**settings)
