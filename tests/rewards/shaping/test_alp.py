"""Worked numbers of the price per token, its edges, and what its defaults are for."""

from __future__ import annotations

import numpy as np
import pytest

from laconic.errors import ConfigError, DataError
from laconic.rewards.shaping import Responses
from laconic.rewards.shaping.alp import Alp

LENGTH_G = [200, 400, 800, 600]
PUBLISHED = Alp(beta=1.0, norm=10_000, all_wrong_groups=True)


def near(*values: float) -> object:
    return pytest.approx(values, abs=1e-12)


def test_published_rewards() -> None:
    assert PUBLISHED(Responses.of([1, 1, 1, 0], LENGTH_G)) == near(0.985, 0.97, 0.94, -0.045)


def test_an_unsolved_prompt_is_priced_only_as_published() -> None:
    assert PUBLISHED(Responses.of([0] * 4, LENGTH_G)) == near(-0.005, -0.01, -0.02, -0.015)
    assert Alp(beta=1.0, norm=10_000)(Responses.of([0] * 4, LENGTH_G)).tolist() == [0.0] * 4


def test_where_all_are_right_the_price_is_full() -> None:
    assert PUBLISHED(Responses.of([1] * 4, LENGTH_G)) == near(0.98, 0.96, 0.92, 0.94)


def test_by_default_a_response_at_the_cap_pays_half_of_the_outcome_at_most() -> None:
    assert Alp()(Responses.of([1, 1], [1000, 0], cap=1000)) == near(0.5, 1.0)
    assert Alp()(Responses.of([1, 0], [1000, 500], cap=1000)) == near(0.75, -0.125)
    assert Alp()(Responses.of([1, 1], [4000, 0], cap=1000)) == near(0.5, 1.0)


def test_the_price_may_spare_wrong_responses() -> None:
    assert Alp(gate="correct_only")(Responses.of([1, 0], [1000, 500], cap=1000)) == near(0.75, 0.0)


def test_with_a_norm_of_its_own_a_long_right_response_scores_below_a_wrong_one() -> None:
    reward_G = PUBLISHED(Responses.of([1, 0], [30_000, 10]))
    assert reward_G[0] < reward_G[1]
    assert not PUBLISHED.range().dominant and {*PUBLISHED.exceptions} == {"dominance", "all_wrong"}
    assert Alp().range().dominant and not Alp().exceptions and np.isfinite(Alp().range().wrong[0])


def test_without_the_cap_there_is_nothing_to_price_by() -> None:
    with pytest.raises(DataError, match="cap"):
        Alp()(Responses.of([1], [5]))


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("beta", {"beta": 0.0}),
        ("beta", {"beta": 1.0}),
        ("norm", {"norm": 0}),
        ("gate", {"gate": "sign_split"}),
        ("all_wrong_groups", {"gate": "correct_only", "all_wrong_groups": True}),
    ],
)
def test_settings_that_break_an_invariant_or_do_nothing_are_refused(key: str, settings: dict) -> None:
    with pytest.raises(ConfigError, match=rf"alp\.{key}"):
        Alp(**settings)
