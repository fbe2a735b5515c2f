"""Worked numbers and edges of the rewards with a cap or a target: thinkprune, dler, laser, tldr."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from laconic.errors import ConfigError
from laconic.rewards.shaping import Dler, Laser, LcpoMax, Phi4Length, Responses, ThinkPrune, Tldr


def near(*values: float) -> object:
    return pytest.approx(values, abs=5e-5)


@pytest.mark.parametrize("shaping", [ThinkPrune(caps=(4000,)), Dler(cap=4000)])
def test_a_right_response_beyond_the_cap_counts_as_wrong(shaping: ThinkPrune | Dler) -> None:
    # The second and third ran into the sampler's cap of 4,000; the fourth is wrong.
    assert shaping(Responses.of([1, 0, 0, 0], [3500, 4000, 4000, 1200])).tolist() == [1, 0, 0, 0]
    # The same responses under a sampler that lets them end.
    assert shaping(Responses.of([1, 1, 1, 0], [3500, 4000, 5000, 1200])).tolist() == [1, 1, 0, 0]


def test_thinkprune_tightens_its_cap_stage_by_stage_and_keeps_the_last() -> None:
    shaping = ThinkPrune(caps=(4000, 3000, 2000), stage_steps=10)
    assert [shaping.cap_at(step) for step in (0, 9, 10, 19, 20, 500)] == [4000, 4000, 3000, 3000, 2000, 2000]
    rewards = [shaping(Responses.of([1, 1], [2500, 3500], step=step)).tolist() for step in (0, 10, 20)]
    assert rewards == [[1, 1], [1, 0], [0, 0]]


def test_laser_pays_a_bonus_within_the_target() -> None:
    published = Laser(target=2048, wrong=-0.5)
    assert published(Responses.of([1, 1, 0], [1500, 3000, 1000])).tolist() == [1.5, 1.0, -0.5]
    assert published(Responses.of([1, 1], [2048, 2049])).tolist() == [1.5, 1.0]


@pytest.mark.parametrize(
    ("ddof", "advantages"), [(0, (0.7625, 0.7625, 0.1525, -1.6775)), (1, (0.6603, 0.6603, 0.1321, -1.4527))]
)
def test_laser_advantages_under_the_group_std(ddof: int, advantages: tuple[float, ...]) -> None:
    reward_G = Laser(target=2048, wrong=-0.5)(Responses.of([1, 1, 1, 0], [1500, 900, 3000, 1000]))
    assert (reward_G - reward_G.mean()) / reward_G.std(ddof=ddof) == near(*advantages)


@pytest.mark.parametrize(("mode", "rewards"), [("reward", [1.5, 1.0]), ("penalty", [1.0, 0.5]), ("hybrid", [1.5, 0.5])])
def test_laser_modes(mode: Any, rewards: list[float]) -> None:
    assert Laser(target=2048, mode=mode)(Responses.of([1, 1], [100, 4000])).tolist() == rewards


def test_tldr_reads_the_target_from_the_prompt() -> None:
    rows = Responses.of([1, 1, 1, 0], [150, 150, 150, 50], budget_N=np.array([100.0, 200.0, np.nan, 200.0]))
    assert Tldr()(rows).tolist() == [1.0, 1.5, 1.0, 0.0]
    assert Tldr(mode="hybrid")(rows).tolist() == [0.5, 1.5, 1.0, 0.0]
    assert Tldr(budget=150)(rows).tolist() == [1.0, 1.5, 1.5, 0.0]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (ThinkPrune, {"caps": ()}),
        (ThinkPrune, {"caps": (100, 0)}),
        (ThinkPrune, {"stage_steps": 0}),
        (Dler, {"cap": 0}),
        (Laser, {"target": 0}),
        (Laser, {"bonus": 0.0}),
        (Laser, {"mode": "bonus"}),
        (Laser, {"wrong": 0.5}),
        (Tldr, {"budget": 0}),
        (Tldr, {"bonus": -1.0}),
    ],
)
def test_settings_that_cannot_work_are_refused(method: type, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{method.name}.{next(iter(settings))}"):  # type: ignore[attr-defined]
        method(**settings)


def test_a_step_that_outvotes_the_outcome_is_refused_unless_wrong_responses_lie_lower() -> None:
    with pytest.raises(ConfigError, match="below 1,"):
        Laser(mode="penalty", bonus=1.0)
    assert Laser(mode="penalty", bonus=1.0, wrong=-0.5).range().dominant


@pytest.mark.parametrize(
    "shaping", [ThinkPrune(caps=(900, 640)), Dler(cap=640), Laser(target=640), Phi4Length(free=640)]
)
def test_a_run_in_which_length_would_change_no_reward_is_refused(shaping: Any) -> None:
    with pytest.raises(ConfigError, match="rollout.max_completion = 640"):
        shaping.check(SimpleNamespace(max_completion=640))
    shaping.check(SimpleNamespace(max_completion=641))


@pytest.mark.parametrize("method", [LcpoMax, Tldr])
def test_a_run_without_any_budget_is_refused(method: Any) -> None:
    without = SimpleNamespace(budget=SimpleNamespace(given=False))
    with pytest.raises(ConfigError, match="rollout.budget.low"):
        method().check(without)
    method(budget=50).check(without)
    method().check(SimpleNamespace(budget=SimpleNamespace(given=True)))
