"""Worked numbers of the comparison of modes, and its edges."""

from __future__ import annotations

import numpy as np
import pytest

from laconic.errors import ConfigError, DataError
from laconic.rewards.shaping import Responses
from laconic.rewards.shaping.hgpo import Hgpo, best_of_mode, better_mode

THINKS_G = np.array([True, True, False, False])
PUBLISHED = Hgpo(share=1.0, gate="none")


def group(right_G: list[int], length_G: list[int], thought_G: list[float]) -> Responses:
    return Responses.of(right_G, length_G, thought_N=np.array(thought_G, float))


def test_the_better_mode_is_the_one_that_is_right_more_often() -> None:
    right_G = np.array([1, 0, 1, 1], bool)  # thinking 0.5, without 1.0
    assert better_mode(right_G, THINKS_G).tolist() == [0, 0, 1, 1]
    assert better_mode(~right_G, THINKS_G).tolist() == [1, 1, 0, 0]


def test_thinking_must_be_ahead_by_the_margin() -> None:
    right_G = np.array([1, 1, 1, 0], bool)
    assert better_mode(right_G, THINKS_G).tolist() == [1, 1, 0, 0]
    assert better_mode(right_G, THINKS_G, margin=0.5).tolist() == [0, 0, 1, 1]
    assert better_mode(np.ones(4, bool), THINKS_G).tolist() == [0, 0, 1, 1]


def test_a_group_of_one_mode_has_no_better_one() -> None:
    for thinks_G in (np.ones(3, bool), np.zeros(3, bool)):
        assert better_mode(np.array([1, 0, 1], bool), thinks_G).tolist() == [0, 0, 0]


def test_the_best_of_a_mode_is_its_shortest_right_response() -> None:
    right_G, length_G = np.array([0, 1, 1, 1], bool), np.array([5.0, 90, 80, 30])
    assert best_of_mode(right_G, length_G, np.array([True, True, True, False])).tolist() == [0, 0, 1, 1]
    assert best_of_mode(np.zeros(4, bool), length_G, THINKS_G).tolist() == [1, 0, 0, 1]


def test_equally_good_responses_are_all_the_best() -> None:
    assert best_of_mode(np.ones(4, bool), np.array([7.0, 7, 9, 9]), THINKS_G).tolist() == [1, 1, 1, 1]


def test_rewards_add_outcome_best_of_mode_and_better_mode() -> None:
    responses = group([1, 0, 1, 1], [400, 300, 20, 30], [380, 290, 0, 0])
    assert Hgpo()(responses) == pytest.approx([1.0, 0.0, 1.2, 0.7])
    assert PUBLISHED(responses) == pytest.approx([1.0, 0.0, 1.2, 0.2])


def test_by_default_an_all_wrong_group_gets_nothing() -> None:
    responses = group([0, 0, 0], [400, 300, 20], [380, 290, 0])
    assert Hgpo()(responses).tolist() == [0.0, 0.0, 0.0]
    assert PUBLISHED(responses) == pytest.approx([0.0, 1.0, 1.2])


def test_as_published_the_best_wrong_response_of_a_mode_outscores_right_ones() -> None:
    reward_G = PUBLISHED(group([1, 1, 0], [400, 300, 20], [380, 290, 0]))
    assert reward_G[2] > reward_G[0]
    assert {*PUBLISHED.exceptions} == {"monotone", "all_wrong", "dominance"} and {*Hgpo().exceptions} == {"monotone"}


def test_a_thought_without_an_end_is_a_thought() -> None:
    assert Hgpo()(group([1, 1], [50, 60], [np.nan, 0])).tolist() == pytest.approx([1.0, 1.2])


def test_without_thoughts_there_are_no_modes() -> None:
    with pytest.raises(DataError, match="thought_N"):
        Hgpo()(Responses.of([1], [5]))


@pytest.mark.parametrize(
    "settings", [{"share": 1.1}, {"alpha": -0.1}, {"alpha": 0.0, "share": 0.0}, {"margin": 2.0}, {"gate": "sign_split"}]
)
def test_settings_that_mean_nothing_are_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match=rf"hgpo\.{next(iter(settings))}"):
        Hgpo(**settings)
