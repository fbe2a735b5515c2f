"""Worked numbers of the targets by difficulty and of the rewards they give, and how the targets are renewed."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from laconic.errors import ConfigError
from laconic.rewards.shaping import Responses
from laconic.rewards.shaping.laser_d import BANDS, LaserD, band_of

MONITOR = [900, 1800, 2500, 4000, 7000]
PUBLISHED = LaserD(wrong=-0.5)


def of_target(target: int | None, right_N: list[int], length_N: list[int], **more: object) -> Responses:
    return Responses.of(right_N, length_N, state={"targets": dict.fromkeys(BANDS, target)}, **more)


def near(*values: float) -> object:
    return pytest.approx(values, abs=5e-5)


def test_published_rewards_and_their_advantages() -> None:
    reward_N = PUBLISHED(of_target(2048, [1, 1, 1, 0], [1500, 2048, 3000, 1000]))
    assert reward_N.tolist() == [1.5, 1.5, 1.0, -0.5]
    centred_N = reward_N - reward_N.mean()
    assert centred_N / reward_N.std() == near(0.7625, 0.7625, 0.1525, -1.6775)
    assert centred_N / reward_N.std(ddof=1) == near(0.6603, 0.6603, 0.1321, -1.4527)


def test_published_targets_of_each_band() -> None:
    seen = dict.fromkeys(BANDS, LaserD().counts(MONITOR))
    assert LaserD().targets(seen, size=8) == {"high": 1024, "medium": 3072, "low": 7168}


def test_a_target_is_no_longer_than_the_longest_response_and_is_that_without_any_seen() -> None:
    group_N = np.repeat([0, 1, 2], 3)
    right_N = [1, 1, 1, 1, 0, 0, 0, 0, 0]
    targets = {"high": 1024, "medium": 9500, "low": None}
    batch = Responses.of(right_N, [10] * 8 + [9000], group_N, state={"targets": targets})
    assert LaserD().target_of(batch).tolist() == [1024] * 3 + [9000] * 6


def test_bands_begin_at_a_third_and_two_thirds() -> None:
    bands = {count: band_of(np.arange(6) < count) for count in range(7)}
    assert [bands[count] for count in (0, 1, 2, 3, 4, 6)] == ["low", "low", "medium", "medium", "high", "high"]


def test_without_a_threshold_that_covers_enough_there_is_no_target() -> None:
    seen = {"high": LaserD().counts([]), "medium": LaserD().counts([20_000]), "low": LaserD().counts([100, 20_000])}
    assert LaserD().targets(seen, size=8) == dict.fromkeys(BANDS, None)
    # Of two responses a third is none, so that a medium group of two is left alone.
    assert LaserD().targets(dict.fromkeys(BANDS, LaserD().counts([5])), size=2)["medium"] is None


def test_lengths_are_counted_up_to_each_threshold() -> None:
    laser = LaserD(lower=10, interval=10, upper=30)
    assert laser.counts([0, 10, 11, 20, 25, 31, 99]) == [2, 2, 1, 2]


def test_targets_are_renewed_from_what_was_seen_since() -> None:
    laser = LaserD(target=50, lower=10, interval=10, upper=100, every=2)
    group_N, right_N = [0, 0, 0, 1, 1, 1], [1, 1, 0, 0, 0, 0]
    state = laser.first_state()
    first = Responses.of(right_N, [15, 15, 90, 40, 40, 41], group_N, state=state)
    assert laser.target_of(first).tolist() == [50] * 6
    state = laser.next_state(first)
    assert state["targets"] == dict.fromkeys(BANDS, 50) and sum(state["seen"]["high"]) == 3
    state = laser.next_state(replace(first, length_N=np.array([25.0, 25, 90, 40, 40, 40]), state=state))
    # Groups of three: high asks for half of the lengths (15 15 25 25 90 90), low for all of them.
    assert state == {**laser.first_state(), "targets": {"high": 30, "medium": None, "low": 50}}


def test_it_is_refused_where_no_response_can_exceed_a_target() -> None:
    LaserD(lower=64).check(SimpleNamespace(max_completion=640))
    with pytest.raises(ConfigError, match="lower"):
        LaserD().check(SimpleNamespace(max_completion=640))


@pytest.mark.parametrize(
    "settings",
    [{"bonus": 0.0}, {"bonus": 1.0}, {"target": 0}, {"interval": 0}, {"every": 0}, {"upper": 100}, {"wrong": 0.1}],
)
def test_settings_that_break_an_invariant_or_do_nothing_are_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match=rf"laser_d\.{next(iter(settings))}"):
        LaserD(**settings)
