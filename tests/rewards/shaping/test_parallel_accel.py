"""Worked numbers and edges of ThreadWeaver's acceleration bonus."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from laconic.errors import ConfigError
from laconic.rewards.shaping import ParallelAccel, Responses


def rewards(shaping: ParallelAccel, right_N: list[int], length_N: list[int], critical_N: list[float]) -> object:
    reward_N = shaping(Responses.of(right_N, length_N, critical_N=np.array(critical_N)))
    return pytest.approx(reward_N.tolist(), abs=1e-12)


def test_the_bonus_is_half_the_share_of_parallel_tokens_up_to_a_fifth() -> None:
    assert rewards(ParallelAccel(wrong=-1.0), [1, 1, 0], [1000] * 3, [700, 900, 700]) == [1.10, 1.05, -1.0]
    assert rewards(ParallelAccel(), [1, 1, 0], [1000] * 3, [700, 900, 700]) == [1.10, 1.05, 0.0]


def test_two_threads_of_twenty_and_thirty_tokens() -> None:
    # 10 tokens, a block mark, 6 of outline, threads with 2 wrappers each, a block mark, 5 tokens.
    total, longest = 10 + 1 + 6 + (2 + 20) + (2 + 30) + 1 + 5, 10 + 1 + 6 + 2 + 2 + 30 + 1 + 5
    assert (total, longest) == (77, 57) and 1 - longest / total == pytest.approx(0.2597, abs=5e-5)
    assert rewards(ParallelAccel(), [1], [total], [longest]) == [1.1]
    assert rewards(ParallelAccel(limit=1.0), [1], [total], [longest]) == [1 + 0.5 * 20 / 77]


def test_one_thread_or_no_token_earns_no_bonus() -> None:
    assert rewards(ParallelAccel(), [1, 1, 1], [500, 0, 10], [500, 0, 12]) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("driver", [SimpleNamespace(), SimpleNamespace(name="treepo")])
def test_a_driver_of_one_thread_is_refused(driver: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match="rollout.driver.name=fork_join"):
        ParallelAccel().check(SimpleNamespace(driver=driver))


def test_a_driver_with_threads_is_fine() -> None:
    ParallelAccel().check(SimpleNamespace(driver=SimpleNamespace(name="fork_join")))


@pytest.mark.parametrize("settings", [{"factor": 0.0}, {"limit": 0.0}, {"limit": 1.5}, {"wrong": 0.5}])
def test_settings_that_do_nothing_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"parallel_accel.{next(iter(settings))}"):
        ParallelAccel(**settings)
