"""Worked numbers and edges of the reward of Phi-4-reasoning-plus."""

from __future__ import annotations

import numpy as np
import pytest

from laconic.errors import ConfigError
from laconic.rewards.shaping import Phi4Length, Responses

PUBLISHED = Phi4Length(require_thought=True, all_wrong_groups=True)


def group(
    right_G: list[int], length_G: list[int], truncated_G: list[int] | None = None, thought: float = 5.0
) -> Responses:
    truncated = np.zeros(len(right_G), bool) if truncated_G is None else np.array(truncated_G, bool)
    return Responses.of(right_G, length_G, truncated_N=truncated, thought_N=np.full(len(right_G), thought))


@pytest.mark.parametrize("shaping", [Phi4Length(), PUBLISHED])
def test_right_ones_lose_beyond_the_free_zone_only(shaping: Phi4Length) -> None:
    reward_G = shaping(group([1, 1, 1, 1], [10_000, 25_600, 28_672, 31_744]))
    assert reward_G == pytest.approx([1.0, 1.0, 0.75, 0.5], abs=1e-12)


@pytest.mark.parametrize("shaping", [Phi4Length(), PUBLISHED])
def test_wrong_ones_lose_less_the_longer_they_are(shaping: Phi4Length) -> None:
    reward_G = shaping(group([0, 0, 0, 0, 1], [0, 1851, 3702, 20_000, 10]))
    assert reward_G[:4] == pytest.approx([-1.0, -0.75, -0.5, -0.5], abs=1e-12)


def test_the_published_scale() -> None:
    assert Phi4Length(scale=8 / 13)(group([1], [10_000]))[0] == pytest.approx(0.615385, abs=5e-7)


def test_running_into_the_cap_costs_a_half_whatever_the_length() -> None:
    assert Phi4Length()(group([1, 0], [100, 100], [0, 1])).tolist() == [1.0, -0.5]


def test_a_missing_mark_costs_everything_as_published_and_nothing_by_default() -> None:
    rows = group([1, 0], [100, 3702], thought=float("nan"))
    assert PUBLISHED(rows).tolist() == [-1.0, -1.0]
    assert Phi4Length()(rows).tolist() == [1.0, -0.5]


def test_an_all_wrong_group_is_paid_for_length_only_if_asked_to() -> None:
    assert Phi4Length()(group([0, 0], [0, 3702])).tolist() == [-0.5, -0.5]
    assert PUBLISHED(group([0, 0], [0, 3702])) == pytest.approx([-1.0, -0.5], abs=1e-12)


@pytest.mark.parametrize("settings", [{"free": 31_744}, {"free": -1}, {"wrong_until": 0}, {"scale": 0.0}])
def test_settings_that_cannot_work_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"phi4_length.{next(iter(settings))}"):
        Phi4Length(**settings)  # type: ignore[arg-type]
