"""Worked numbers of group filtered policy optimisation, the trap of equal rewards, adaptive k, and its digest."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import ConfigError
from laconic.rewards.selection import SELECTIONS, Gfpo, KeepAll, Selected, selection_metrics
from laconic.rewards.selection.digest import Digest
from laconic.rewards.selection.gfpo import excess_length_reduction
from laconic.rewards.shaping import Responses
from laconic.train.credit import DrGrpo, Grpo

LENGTH_G, REWARD_G = [200, 400, 800, 600], np.array([0.0, 1, 1, 0])
PUBLISHED = Gfpo(keep=2, stats="kept")
EFFICIENT = Gfpo(keep=2, rank="token_efficiency", stats="kept")


def group(length_N: list[int] = LENGTH_G, group_N: list[int] | None = None) -> Responses:
    return Responses.of([1] * len(length_N), length_N, group_N)


def z_score(reward_N: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    """Published credit of one group: ddof 0, no epsilon, 0 for rewards that are not counted or all equal."""
    centred_N = reward_N - np.nanmean(reward_N)
    return np.nan_to_num(centred_N / (np.nanstd(reward_N) or 1.0))


def credit_of(credit: Any, reward_N: np.ndarray, group_N: np.ndarray, selected: Selected) -> np.ndarray:
    """The rule of the module, as the trainer has it."""
    return np.where(selected.keep_N, credit(np.where(selected.counted_N, reward_N, np.nan), group_N), 0.0)


def advantages(gfpo: Gfpo) -> list[float]:
    return credit_of(z_score, REWARD_G, np.zeros(4, int), gfpo(group(), REWARD_G, {})).tolist()


def test_the_shortest_are_kept_and_compared_with_each_other() -> None:
    assert PUBLISHED(group(), REWARD_G, {}).keep_N.tolist() == [True, True, False, False]
    assert advantages(PUBLISHED) == [-1, 1, 0, 0]


def test_the_trap_kept_ones_of_one_kind_teach_nothing_as_published() -> None:
    assert EFFICIENT(group(), REWARD_G, {}).keep_N.tolist() == [False, True, True, False]
    assert advantages(EFFICIENT) == [0, 0, 0, 0]
    metrics = selection_metrics(group(), REWARD_G, EFFICIENT(group(), REWARD_G, {}))
    assert metrics == {"selection/kept": 0.5, "selection/equal_kept": 1.0}


def test_by_default_such_a_group_is_compared_as_a_whole() -> None:
    assert advantages(Gfpo(keep=2, rank="token_efficiency")) == [0, 1, 1, 0]
    assert advantages(Gfpo(keep=2)) == advantages(PUBLISHED)


def test_statistics_may_be_those_of_all() -> None:
    assert advantages(Gfpo(keep=2, stats="all")) == [-1, 1, 0, 0]
    reward_G = np.array([0.0, 1, 1, 1])
    selected = Gfpo(keep=2, stats="all")(group(), reward_G, {})
    assert credit_of(DrGrpo(), reward_G, np.zeros(4, int), selected).tolist() == [-0.75, 0.25, 0, 0]


def test_our_credit_differs_by_its_standard_deviation_only() -> None:
    selected = PUBLISHED(group(), REWARD_G, {})
    found_G = credit_of(Grpo(epsilon=1e-12), REWARD_G, np.zeros(4, int), selected)
    assert found_G == pytest.approx(np.array([-1, 1, 0, 0]) / np.sqrt(2))


def test_ties_go_to_the_first_and_being_right_is_no_condition() -> None:
    keep_N = Gfpo(keep=2)(group([50, 40, 50, 50]), REWARD_G, {}).keep_N
    assert keep_N.tolist() == [True, True, False, False]


def test_graded_rewards_rank_by_reward_per_token() -> None:
    keep_N = EFFICIENT(group([100, 100, 50, 0]), np.array([1.0, 0.4, 0.3, -0.5]), {}).keep_N
    assert keep_N.tolist() == [True, False, True, False]


def test_groups_are_apart_and_smaller_ones_are_kept_whole() -> None:
    responses = group([5, 9, 1, 7, 3], [7, 2, 7, 7, 2])
    selected = Gfpo(keep=2)(responses, np.array([1.0, 1, 0, 1, 0]), {})
    assert selected.keep_N.tolist() == [True, True, True, False, True]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 2)), min_size=1, max_size=64),
    keep=st.integers(1, 8),
    stats=st.sampled_from(["kept_or_all", "kept", "all"]),
    rank=st.sampled_from(["shortest", "token_efficiency"]),
)
def test_what_is_kept_is_counted_and_what_is_not_has_no_advantage(rows, keep, stats, rank) -> None:  # type: ignore
    group_N, length_N, reward_N = (np.array(column) for column in zip(*rows, strict=True))
    responses, reward_N = Responses.of(reward_N > 0, length_N, group_N), reward_N.astype(float)
    selected: Selected = Gfpo(keep=keep, stats=stats, rank=rank)(responses, reward_N, {})
    assert not (selected.keep_N & ~selected.counted_N).any()
    for rows_G in responses.by_group():
        assert selected.keep_N[rows_G].sum() == min(keep, len(rows_G))
        counted_G = selected.counted_N[rows_G]
        assert counted_G.all() or (counted_G == selected.keep_N[rows_G]).all()
    advantage_N = credit_of(Grpo(), reward_N, group_N, selected)
    assert np.isfinite(advantage_N).all() and not advantage_N[~selected.keep_N].any()
    if stats == "kept_or_all":
        for rows_G in responses.by_group():
            # Signal is lost only where nothing of it was kept, on either side of the group's mean.
            if np.ptp(reward_N[rows_G]) > 0:
                kept = rows_G[selected.keep_N[rows_G]]
                lost = np.allclose(reward_N[kept], reward_N[rows_G].mean())
                assert advantage_N[kept].any() or lost


def test_hard_prompts_keep_more_once_the_digest_is_warm() -> None:
    gfpo = Gfpo(keep=9, adaptive=True, warm=100)
    state = gfpo.first_state()
    assert gfpo.kept(0.0, state) == 9
    rewards = np.repeat(np.arange(100) / 100, 2)
    state = gfpo.next_state(Responses.of(rewards > 0.5, rewards * 0, np.arange(200) // 2), rewards, state)
    assert json.loads(json.dumps(state)) == state
    assert [gfpo.kept(mean, state) for mean in (0.1, 0.3, 0.6, 0.9)] == [8, 8, 6, 4]
    keep_N = gfpo(group([*range(16)] * 2, [0] * 16 + [1] * 16), np.repeat([0.05, 0.95], 16), state).keep_N
    assert (keep_N[:16].sum(), keep_N[16:].sum()) == (8, 4)


def test_without_adaptive_k_nothing_is_remembered() -> None:
    assert Gfpo().first_state() == {} == Gfpo().next_state(group(), REWARD_G, {})
    assert (Gfpo().scope, Gfpo(adaptive=True).scope, KeepAll().scope) == ("group", "history", "group")


@pytest.mark.parametrize("values", ["normal", "few", "rising"])
def test_a_digest_is_small_and_its_quartiles_are_near(values: str) -> None:
    rng = np.random.default_rng(0)
    numbers = {
        "normal": rng.normal(size=20_000),
        "few": rng.integers(0, 17, 20_000) / 16,
        "rising": np.arange(20_000.0),
    }[values]
    digest = Digest()
    for part in np.array_split(numbers, 100):
        digest = digest.add(part.tolist())
    assert digest.total == 20_000 and len(digest.means) < 150
    for share in (0.25, 0.5, 0.75):
        # In rank, not in value: of few distinct values a quantile may lie between two of them.
        below, upto = (
            (numbers < digest.quantile(share) - 1 / 32).mean(),
            (numbers <= digest.quantile(share) + 1 / 32).mean(),
        )
        assert below - 0.01 <= share <= upto + 0.01


def test_excess_length_reduction() -> None:
    assert excess_length_reduction(grpo=14.8, base=10.9, other=12.0) == pytest.approx(0.718, abs=5e-4)


def test_keeping_all_changes_nothing() -> None:
    selected = KeepAll()(group(), REWARD_G, {})
    found_G = credit_of(DrGrpo(), REWARD_G, np.zeros(4, int), selected)
    assert found_G.tolist() == DrGrpo()(REWARD_G, [0] * 4).tolist()
    assert {name: selection().name for name, selection in SELECTIONS.items()} == {name: name for name in SELECTIONS}


def test_a_filter_that_keeps_all_is_refused() -> None:
    Gfpo(keep=8).check(SimpleNamespace(group_size=16))
    Gfpo(keep=16, adaptive=True).check(SimpleNamespace(group_size=16))
    with pytest.raises(ConfigError, match="group_size to 16"):
        Gfpo(keep=8).check(SimpleNamespace(group_size=8))


@pytest.mark.parametrize(
    "settings", [{"keep": 0}, {"keep_by_quartile": (8, 8, 6, 0)}, {"warm": 0}, {"rank": "longest"}, {"stats": "none"}]
)
def test_settings_that_mean_nothing_are_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match=rf"gfpo\.{next(iter(settings))}"):
        Gfpo(**settings)
