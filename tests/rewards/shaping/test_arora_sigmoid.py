"""Worked numbers of the sigmoid length reward with its leave-one-out credit, and its edges."""

from __future__ import annotations

import numpy as np
import pytest

from laconic.errors import ConfigError
from laconic.rewards.shaping import Responses
from laconic.rewards.shaping.arora_sigmoid import AroraSigmoid, length_sigmoid
from laconic.train.credit import Rloo

LENGTH_G = [200, 400, 800, 600]


def near(*values: float) -> object:
    return pytest.approx(values, abs=5e-7)


@pytest.mark.parametrize(
    ("alpha", "reward_G", "advantage_G"),
    [
        (0.1, (0.974442, 0.956642, 0.920812, 0), (0.348624, 0.324891, 0.277117, -0.950632)),
        (0.4, (0.897766, 0.826568, 0.683247, 0), (0.394494, 0.299564, 0.108469, -0.802527)),
    ],
)
def test_published_rewards_and_their_advantages(alpha: float, reward_G: tuple, advantage_G: tuple) -> None:
    found_G = AroraSigmoid(alpha)(Responses.of([1, 1, 1, 0], LENGTH_G))
    assert found_G == near(*reward_G)
    assert Rloo()(found_G, [0] * 4) == near(*advantage_G)


def test_wrong_responses_move_neither_mean_nor_deviation() -> None:
    alone = AroraSigmoid()(Responses.of([1, 1], [100, 300]))
    beside = AroraSigmoid()(Responses.of([1, 0, 1], [100, 9000, 300]))
    assert beside.tolist() == [alone[0], 0.0, alone[1]]


@pytest.mark.parametrize("length_G", [[700], [5, 5, 5], [0, 0]])
def test_one_right_response_and_equal_ones_lose_half_of_alpha(length_G: list[int]) -> None:
    assert AroraSigmoid(0.4)(Responses.of([1] * len(length_G), length_G)) == near(*[0.8] * len(length_G))


def test_an_all_wrong_group_gets_nothing() -> None:
    assert AroraSigmoid()(Responses.of([0] * 4, LENGTH_G)).tolist() == [0.0] * 4


def test_counting_the_end_of_sequence_token_changes_no_reward() -> None:
    right_G, length_G = np.ones(4, bool), np.array(LENGTH_G, float)
    assert length_sigmoid(right_G, length_G + 1) == pytest.approx(length_sigmoid(right_G, length_G), abs=1e-12)


def test_division_by_the_standard_deviation_cancels_alpha_where_all_are_right() -> None:
    def standardised(alpha: float, length_G: list[int], ddof: int = 0) -> np.ndarray:
        reward_G = AroraSigmoid(alpha)(Responses.of([1] * 4, length_G))
        return (reward_G - reward_G.mean()) / reward_G.std(ddof=ddof)

    four = pytest.approx([1.3239, 0.4973, -1.3239, -0.4973], abs=5e-5)
    assert standardised(0.1, LENGTH_G) == four and standardised(0.001, LENGTH_G) == four
    assert standardised(0.1, LENGTH_G, ddof=1)[:2] == pytest.approx([1.1465, 0.4307], abs=5e-5)
    # Three tokens apart: noise becomes a gradient of full size.
    close = standardised(0.1, [1000, 1001, 1002, 1003])
    assert close == pytest.approx([1.3239, 0.4973, -0.4973, -1.3239], abs=5e-5)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, float("nan")])
def test_an_alpha_that_breaks_the_order_or_does_nothing_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match=r"arora_sigmoid\.alpha"):
        AroraSigmoid(alpha)
