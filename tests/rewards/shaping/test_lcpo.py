"""Worked numbers and edges of the two rewards of L1."""

from __future__ import annotations

import numpy as np
import pytest

from laconic.errors import ConfigError, DataError
from laconic.rewards.shaping import LcpoExact, LcpoMax, Responses

PUBLISHED_EXACT = LcpoExact(max_penalty=None, all_wrong_groups=True)


def near(*values: float) -> object:
    return pytest.approx(values, abs=1e-9)


def test_exact_loses_with_the_distance_to_the_budget_right_or_wrong_long_or_short() -> None:
    rows = Responses.of([1, 0, 1], [1300, 1300, 700], budget_N=np.full(3, 1000.0))
    assert PUBLISHED_EXACT(rows) == near(0.91, -0.09, 0.91)
    assert LcpoExact()(rows) == near(0.91, -0.09, 0.91)


def test_exact_as_published_breaks_dominance_beyond_one_over_alpha_and_the_default_does_not() -> None:
    rows = Responses.of([1, 0], [6000, 2000], budget_N=np.full(2, 2000.0))
    assert PUBLISHED_EXACT(rows) == near(-0.2, 0.0)
    assert LcpoExact()(rows) == near(0.1, 0.0)
    assert LcpoExact().range().dominant and not PUBLISHED_EXACT.range().dominant
    assert {*PUBLISHED_EXACT.exceptions} == {"monotone", "dominance", "all_wrong"}


def test_exact_pays_an_all_wrong_group_for_length_only_if_asked_to() -> None:
    rows = Responses.of([0, 0], [1300, 1000], budget_N=np.full(2, 1000.0))
    assert PUBLISHED_EXACT(rows) == near(-0.09, 0.0)
    assert LcpoExact()(rows).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("length", "budget", "reward"),
    [(1000, 1000, 0.5), (500, 1000, 0.65), (2000, 1000, 0.2), (3000, 1000, 0.0), (100, 2000, 1.0)],
)
def test_max_formula(length: int, budget: int, reward: float) -> None:
    rows = Responses.of([1, 0], [length, length], budget_N=np.full(2, float(budget)))
    assert LcpoMax()(rows) == near(reward, 0.0)


@pytest.mark.parametrize(("length", "reward"), [(1000, 0.5), (500, 1.0), (1250, 0.25), (1500, 0.0)])
def test_max_with_the_slope_of_the_released_code(length: int, reward: float) -> None:
    rows = Responses.of([1], [length], budget_N=np.array([1000.0]))
    released = (max(-1.0, min(1.0, 0.002 * (1000 - length))) + 1) / 2
    assert released == pytest.approx(reward)
    assert LcpoMax(alpha=0.002 / 2)(rows) == near(released)


@pytest.mark.parametrize("shaping", [LcpoExact(), LcpoMax()])
def test_a_prompt_without_a_budget_gets_the_outcome(shaping: LcpoExact | LcpoMax) -> None:
    rows = Responses.of([1, 0], [300, 9000], budget_N=np.full(2, np.nan))
    assert shaping(rows).tolist() == [1.0, 0.0]


def test_a_constant_budget_stands_in_where_a_prompt_has_none() -> None:
    asked = Responses.of([1, 1], [1300, 1300], budget_N=np.array([np.nan, 1300.0]))
    assert LcpoExact(budget=1000)(asked) == near(0.91, 1.0)
    assert LcpoExact(budget=1000)(Responses.of([1], [1300])) == near(0.91)
    assert LcpoMax(budget=1000)(asked) == near(0.41, 0.5)


@pytest.mark.parametrize("shaping", [LcpoExact(), LcpoMax()])
def test_without_any_budget_the_length_term_would_be_off_and_that_is_an_error(shaping: LcpoExact | LcpoMax) -> None:
    with pytest.raises(DataError, match=f"{shaping.name} needs Responses.budget_N"):
        shaping(Responses.of([1], [300]))


@pytest.mark.parametrize("method", [LcpoExact, LcpoMax])
@pytest.mark.parametrize("settings", [{"alpha": 0.0}, {"budget": 0}])
def test_settings_that_do_nothing_are_refused(method: type, settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"lcpo_.*{next(iter(settings))}"):
        method(**settings)


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_a_limit_that_breaks_dominance_is_refused(limit: float) -> None:
    with pytest.raises(ConfigError, match="max_penalty"):
        LcpoExact(max_penalty=limit)


@pytest.mark.parametrize("delta", [0.0, 1.5])
def test_a_delta_outside_of_the_clip_is_refused(delta: float) -> None:
    with pytest.raises(ConfigError, match="delta"):
        LcpoMax(delta=delta)
