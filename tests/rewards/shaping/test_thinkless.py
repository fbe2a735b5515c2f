"""Worked numbers of the Thinkless reward."""

from __future__ import annotations

import numpy as np
import pytest

from laconic.errors import ConfigError
from laconic.rewards.shaping import Responses
from laconic.rewards.shaping.thinkless import Thinkless

FOUR = Responses.of([1, 1, 0, 0], [40, 400, 30, 500], thought_N=np.array([0.0, 300.0, 0.0, 450.0]))
"""Right at once, right after a thought, wrong at once, wrong after a thought."""


def test_published_rewards_and_their_advantages() -> None:
    reward_G = Thinkless()(FOUR)
    assert reward_G.tolist() == [1.0, 0.5, -1.0, -1.0]
    assert (reward_G - reward_G.mean()).tolist() == [1.125, 0.625, -0.875, -0.875]


def test_a_thought_that_never_ends_is_a_thought() -> None:
    assert Thinkless()(Responses.of([1, 0], [9, 9], thought_N=np.array([np.nan, np.nan]))).tolist() == [0.5, -1.0]


def test_the_mode_counts_and_not_the_length() -> None:
    rows = Responses.of([1, 1], [400, 40], thought_N=np.array([0.0, 20.0]))
    assert Thinkless(think=0.6)(rows).tolist() == [1.0, 0.6]
    assert "monotone" in Thinkless().exceptions


@pytest.mark.parametrize("settings", [{"think": 1.0}, {"think": -1.0}, {"think": 0.2, "wrong": 0.3}])
def test_rewards_out_of_order_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"thinkless\.think"):
        Thinkless(**settings)
