"""Worked numbers of AutoThink's three stages."""

from __future__ import annotations

from math import exp, sqrt

import numpy as np
import pytest

from laconic.errors import ConfigError
from laconic.rewards.shaping import Responses
from laconic.rewards.shaping.autothink import AutoThink, deviations

FOUR = Responses.of([1, 1, 0, 0], [40, 400, 500, 30], thought_N=np.array([0.0, 300.0, 450.0, 0.0]))
"""Right at once, right after a thought, wrong after a thought, wrong at once."""


def near(*values: float) -> object:
    return pytest.approx(values, abs=1e-12)


def modes(at_once: int, thinking: int) -> Responses:
    """Pairs of a right and a wrong response in each mode; the last two think."""
    thought_N = np.array([0.0] * at_once + [50.0] * thinking)
    return Responses.of([True, False] * (len(thought_N) // 2), [60] * len(thought_N), thought_N=thought_N)


def test_rewards_by_outcome_and_mode() -> None:
    assert AutoThink(stage=2)(FOUR) == near(2, 1, 0, -1)


def test_equal_shares_of_both_modes_leave_them_as_they_are() -> None:
    assert AutoThink(stage=1)(FOUR) == near(2, 1, 0, -1)


def test_three_quarters_of_thoughts_cost_every_thought_a_half() -> None:
    # z = 0.75: 2 * (0.75 - 0.5) = 0.5 off what thinks, nothing off what answers at once.
    assert AutoThink()(modes(2, 6)) == near(2, -1, *(0.5, -0.5) * 3)
    # The other way round the surplus is that of answers at once.
    assert AutoThink()(modes(6, 2)) == near(*(1.5, -1.5) * 3, 1, 0)


def test_the_surplus_is_the_published_mix_of_reward_and_target() -> None:
    # r <- (1 - d) r + d t with t = 0, -1 after a thought and 1, -2 at once.
    for d, rows in ((0.5, modes(2, 6)), (1.0, modes(0, 8))):
        mixed = [(1 - d) * 1 + d * 0, (1 - d) * 0 + d * -1]
        assert AutoThink()(rows)[-2:] == near(*mixed)
    assert AutoThink()(modes(6, 2))[:2] == near(0.5 * 2 + 0.5 * 1, 0.5 * -1 + 0.5 * -2)


def test_the_surplus_is_that_of_the_generation_and_not_of_a_group() -> None:
    rows = modes(2, 6)
    grouped = Responses.of(rows.right_N, rows.length_N, [0, 0, 0, 0, 1, 1, 1, 1], thought_N=rows.thought_N)
    assert np.array_equal(AutoThink()(grouped), AutoThink()(rows))


def test_in_stage_three_short_right_and_long_wrong_responses_gain() -> None:
    rows = Responses.of([1, 1, 1, 0, 0], [100, 200, 300, 100, 300], thought_N=np.array([50.0] * 5))
    wrong = 1 / sqrt(2)
    assert AutoThink(stage=3)(rows) == near(exp(0.05), 1.0, exp(-0.05), 1 - exp(0.05 * wrong), 1 - exp(-0.05 * wrong))


def test_equal_lengths_and_a_single_response_have_no_length_term() -> None:
    rows = Responses.of([1, 1, 0], [100, 100, 7], thought_N=np.array([50.0, 50.0, 3.0]))
    assert AutoThink(stage=3)(rows).tolist() == [1.0, 1.0, 0.0]
    assert deviations(np.array([5.0, 5.0, 5.0])).tolist() == [0.0, 0.0, 0.0]


def test_one_outlier_among_many_counts_as_ten_deviations() -> None:
    length_S = np.array([10.0] * 399 + [9000.0])
    assert deviations(length_S).max() == 10.0
    reward_N = AutoThink(stage=3)(Responses.of(np.ones(400), length_S, thought_N=np.full(400, 5.0)))
    assert reward_N[-1] == pytest.approx(AutoThink(stage=3).range().right[0], abs=1e-12)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_group_without_a_right_response_gets_equal_rewards_unless_published(stage) -> None:
    rows = Responses.of([0, 0, 0], [10, 50, 90], thought_N=np.array([0.0, 40.0, 80.0]))
    assert AutoThink(stage=stage)(rows).tolist() == [0.0, 0.0, 0.0]
    published = AutoThink(stage=stage, all_wrong="published")
    assert np.ptp(published(rows)) > 0 and "all_wrong" in published.exceptions


@pytest.mark.parametrize(
    "settings",
    [{"stage": 4}, {"target": 1.0}, {"slope": 0.0}, {"alpha": 0.0}, {"alpha": 0.07, "beta": 0.07}, {"all_wrong": "no"}],
)
def test_settings_that_break_an_invariant_or_do_nothing_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"autothink.{next(iter(settings))}"):
        AutoThink(**settings)  # type: ignore[arg-type]
