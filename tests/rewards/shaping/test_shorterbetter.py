"""Worked numbers of the distance to the shortest right response, its edges, and what its defaults are for."""

from __future__ import annotations

import pytest

from laconic.errors import ConfigError
from laconic.rewards.shaping import Responses
from laconic.rewards.shaping.shorterbetter import ShorterBetter

LENGTH_G = [200, 400, 800, 600]
PUBLISHED = ShorterBetter(alpha=2.0, most=None, gate="none")


def near(*values: float) -> object:
    return pytest.approx(values, abs=1e-12)


def test_published_rewards() -> None:
    assert PUBLISHED(Responses.of([1, 1, 1, 0], LENGTH_G)) == near(2.0, 1.8, 1.4, -0.4)


def test_an_all_wrong_group_is_drawn_to_its_mean_only_as_published() -> None:
    assert PUBLISHED(Responses.of([0] * 4, LENGTH_G)) == near(-0.3, -0.1, -0.3, -0.1)
    assert ShorterBetter()(Responses.of([0] * 4, LENGTH_G)).tolist() == [0.0] * 4


def test_by_default_length_takes_half_of_the_outcome_of_right_responses_at_most() -> None:
    assert ShorterBetter()(Responses.of([1, 1, 1, 0], [200, 400, 9000, 10])) == near(1.0, 0.8, 0.5, 0.0)


def test_as_published_a_right_response_far_away_scores_below_a_wrong_one() -> None:
    reward_G = PUBLISHED(Responses.of([1, 1, 0], [200, 2300, 200]))
    assert reward_G[1] < reward_G[2]
    assert not PUBLISHED.range().dominant and {*PUBLISHED.exceptions} == {"dominance", "all_wrong"}
    assert ShorterBetter().range().dominant and not ShorterBetter().exceptions


def test_a_quantile_is_not_drawn_to_one_lucky_guess() -> None:
    length_G = [10, 800, 800, 800, 800]
    lucky, median = (ShorterBetter(quantile=q, most=None)(Responses.of([1] * 5, length_G)) for q in (0.0, 0.5))
    assert lucky == near(1.0, *[0.21] * 4)
    assert median == near(0.21, *[1.0] * 4)
    assert "monotone" in ShorterBetter(quantile=0.5).exceptions


@pytest.mark.parametrize(
    "settings",
    [{"alpha": 0.0}, {"beta": 0.0}, {"most": 1.0}, {"most": 0.0}, {"quantile": 1.1}, {"gate": "sign_split"}],
)
def test_settings_that_break_an_invariant_or_do_nothing_are_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match=f"shorterbetter.{next(iter(settings))}"):
        ShorterBetter(**settings)
