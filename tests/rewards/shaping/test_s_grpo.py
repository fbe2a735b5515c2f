"""Worked numbers of the decaying reward of exits, ties, several thoughts, and a generation of the anytime driver."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from laconic.errors import ConfigError, DataError
from laconic.rewards.shaping import Responses
from laconic.rewards.shaping.s_grpo import SGrpo
from laconic.rollout.drivers import DRIVERS
from laconic.train.credit import DrGrpo


def serial(right_G: list[int], exit_G: list[int], chain_G: list[int] | None = None) -> Responses:
    chain = [1] * len(right_G) if chain_G is None else chain_G
    return Responses.of(right_G, exit_G, exit_N=np.array(exit_G, float), chain_N=np.array(chain))


def test_the_first_right_exit_earns_one_and_each_later_one_half() -> None:
    reward_G = SGrpo()(serial([0, 1, 1, 0, 1], [10, 20, 30, 40, 50]))
    assert reward_G.tolist() == [0, 1, 0.5, 0, 0.25]
    assert reward_G.mean() == pytest.approx(0.35)
    assert DrGrpo()(reward_G, [0] * 5) == pytest.approx([-0.35, 0.65, 0.15, -0.35, -0.10])


def test_the_place_in_the_thought_counts_not_the_order_of_the_rows() -> None:
    assert SGrpo()(serial([1, 0, 1, 1, 0], [50, 10, 30, 20, 40])).tolist() == [0.25, 0, 0.5, 1, 0]


def test_answers_from_the_same_exit_earn_alike() -> None:
    assert SGrpo()(serial([1, 1, 0, 1], [10, 10, 10, 30])).tolist() == [1, 1, 0, 0.5]


def test_each_thought_of_a_group_counts_for_itself() -> None:
    assert SGrpo()(serial([1, 1, 1, 0], [10, 20, 90, 80], [1, 1, 2, 2])).tolist() == [1, 0.5, 1, 0]


def test_an_all_wrong_group_and_flat_responses_get_the_outcome() -> None:
    assert SGrpo()(serial([0, 0], [10, 20])).tolist() == [0, 0]
    assert SGrpo()(serial([1, 0, 1], [10, 20, 30], [1, 2, 3])).tolist() == [1, 0, 1]


def test_it_is_refused_where_no_thought_is_left_early() -> None:
    anytime = DRIVERS["anytime"]
    SGrpo().check(SimpleNamespace(driver=anytime(unit="summary")))
    for driver in (DRIVERS["flat"](), anytime(unit="trace"), anytime(unit="summary", budgets=1)):
        with pytest.raises(ConfigError, match="s_grpo"):
            SGrpo().check(SimpleNamespace(driver=driver))


def test_without_exits_there_is_no_order() -> None:
    with pytest.raises(DataError, match="chain_N"):
        SGrpo()(Responses.of([1], [5]))


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_a_decay_that_orders_nothing_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"s_grpo\.decay"):
        SGrpo(decay)
