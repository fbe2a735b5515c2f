"""Worked numbers of Kimi's length reward, its edges, and what its gate is for."""

from __future__ import annotations

import numpy as np
import pytest

from laconic.errors import ConfigError
from laconic.rewards.shaping import KimiLength, Responses
from laconic.rewards.shaping.kimi_length import length_lambda

LENGTH_G = np.array([200, 400, 800, 600])
PUBLISHED = KimiLength(weight=1.0, gate="sign_split")


def near(*values: float) -> object:
    return pytest.approx(values, abs=5e-5)


def test_lambda_falls_from_a_half_for_the_shortest_to_minus_a_half_for_the_longest() -> None:
    assert length_lambda(LENGTH_G.astype(float)) == near(0.5, 0.1667, -0.5, -0.1667)


def test_published_rewards_and_their_advantages() -> None:
    reward_G = PUBLISHED(Responses.of([1, 1, 1, 0], LENGTH_G))
    assert reward_G == near(1.5, 1.1667, 0.5, -0.1667)
    centred_G = reward_G - reward_G.mean()
    assert centred_G / reward_G.std(ddof=1) == near(1.0147, 0.5637, -0.3382, -1.2402)
    assert centred_G / reward_G.std(ddof=0) == near(1.1717, 0.6509, -0.3906, -1.4321)


def test_by_default_a_wrong_response_keeps_zero() -> None:
    assert KimiLength(weight=1.0)(Responses.of([1, 1, 1, 0], LENGTH_G)) == near(1.5, 1.1667, 0.5, 0.0)
    assert KimiLength()(Responses.of([1, 1, 1, 0], LENGTH_G)) == near(1.2, 1.0667, 0.8, 0.0)


def test_the_published_rule_gives_an_all_wrong_group_a_length_signal_and_the_default_does_not() -> None:
    assert PUBLISHED(Responses.of([0, 0, 0, 0], LENGTH_G)) == near(0.0, 0.0, -0.5, -0.1667)
    assert KimiLength(weight=1.0)(Responses.of([0, 0, 0, 0], LENGTH_G)).tolist() == [0.0] * 4


def test_wrong_lengths_set_the_scale_for_right_ones() -> None:
    assert KimiLength(weight=1.0)(Responses.of([1, 1, 0], [200, 300, 1200])) == near(1.5, 1.4, 0.0)


@pytest.mark.parametrize("gate", ["correct_only", "sign_split"])
@pytest.mark.parametrize("length_G", [[700, 700, 700], [0, 0, 0], [5]])
def test_equal_lengths_and_a_group_of_one_leave_the_outcome(gate: str, length_G: list[int]) -> None:
    right_G = [1, 0, 1][: len(length_G)]
    assert KimiLength(1.0, gate)(Responses.of(right_G, length_G)).tolist() == right_G  # type: ignore[arg-type]


def test_a_quantile_keeps_one_outlier_from_flattening_the_others() -> None:
    length_G = np.array([200.0, 400.0, 600.0, 800.0, 32_768.0])
    assert np.ptp(length_lambda(length_G)[:4]) < 0.02
    assert length_lambda(length_G, max_quantile=0.75) == near(0.5, 0.1667, -0.1667, -0.5, -0.5)


def test_in_an_all_right_group_the_weight_cancels_under_the_group_std() -> None:
    def standardised(weight: float) -> np.ndarray:
        reward_G = KimiLength(weight)(Responses.of([1, 1, 1, 1], LENGTH_G))
        return (reward_G - reward_G.mean()) / reward_G.std()

    assert standardised(0.001) == pytest.approx(standardised(1.0), abs=1e-9)


@pytest.mark.parametrize(
    "settings", [{"weight": 0.0}, {"weight": 1.01}, {"gate": "none"}, {"max_quantile": 0.0}, {"max_quantile": 1.5}]
)
def test_settings_that_break_an_invariant_or_do_nothing_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"kimi_length.{next(iter(settings))}"):
        KimiLength(**settings)  # type: ignore[arg-type]
