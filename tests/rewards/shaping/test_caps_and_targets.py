"""Worked numbers and edges of the rewards with a cap or a target: thinkprune, dler, laser, tldr."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from laconic.errors import ConfigError
from laconic.rewards.shaping import Dler, Laser, LcpoExact, LcpoMax, Phi4Length, Responses, ThinkPrune, Tldr
from laconic.train.cautions import find_warnings
from laconic.train.settings import load_settings


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


def run_with(smallest: int | None) -> SimpleNamespace:
    """The section ``rollout`` of a run whose prompts ask for so many tokens at least."""
    return SimpleNamespace(budget=SimpleNamespace(smallest=smallest), max_completion=640)


@pytest.mark.parametrize("method", [LcpoExact, LcpoMax, Tldr])
def test_a_run_without_any_budget_is_refused(method: Any) -> None:
    with pytest.raises(ConfigError, match="rollout.budget.low"):
        method().check(run_with(None))
    method(budget=50).check(run_with(None))
    method().check(run_with(50))


@pytest.mark.parametrize(
    ("shaping", "full"),
    [
        (LcpoMax(alpha=0.01), 50),  # a right answer 50 tokens below its budget earns 1
        (LcpoExact(alpha=0.01), 90),  # one 90 tokens below loses 0.9
        (Tldr(), 0),
    ],
)
def test_a_run_whose_budgets_no_answer_comes_near_is_refused(shaping: Any, full: int) -> None:
    shaping.check(run_with(640 + full - 1))
    rows = Responses.of([1, 1], [639, 640], budget_N=np.full(2, 640.0 + full - 1))
    assert np.ptp(shaping(rows)) > 0
    with pytest.raises(ConfigError, match="lower the budget"):
        shaping.check(run_with(640 + full))
    rows = Responses.of([1, 1, 1], [0, 300, 640], budget_N=np.full(3, 640.0 + full))
    assert np.ptp(shaping(rows)) < 1e-9
    replace(shaping, budget=100).check(run_with(640 + full))


def test_a_filter_on_outcomes_is_warned_about_where_the_cap_lies_below_the_completion_cap() -> None:
    def warned(method: str, *overrides: str) -> bool:
        found = find_warnings(load_settings(f"configs/methods/{method}.yaml", [*overrides]))
        return any("drops groups of right answers" in line for line in found)

    assert not warned("dler") and warned("dler", "reward.shaping.cap=100")
    assert not warned("thinkprune") and warned("thinkprune", "sampler.filter=signal")
