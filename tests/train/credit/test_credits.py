"""Advantages: worked numbers, and what holds for every estimator, group size and order of rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from laconic.errors import ConfigError, DataError
from laconic.train.credit import CREDITS, DrGrpo, Grpo, Rloo

TOLERANCE = 1e-9
METHODS = [method() for method in CREDITS.values()]
BY_GROUP = [method for method in METHODS if getattr(method, "scope", "group") == "group"]


def call(method, reward_N, group_N):
    """Advantages; those that whiten over tokens get answers of different lengths."""
    if method in BY_GROUP:
        return method(reward_N, group_N)
    return method(reward_N, group_N, 7 + np.asarray(group_N) % 3)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Grpo(), [0.49990002, -1.49970006, 0.49990002, 0.49990002]),
        (DrGrpo(), [0.25, -0.75, 0.25, 0.25]),
        (Rloo(), [1 / 3, -1, 1 / 3, 1 / 3]),
    ],
)
def test_worked_numbers_of_three_right_and_one_wrong_answer(method, expected):
    np.testing.assert_allclose(method([1, 0, 1, 1], [7, 7, 7, 7]), expected, atol=1e-8)


def test_worked_numbers_of_a_cut_outlier_among_sixteen():
    advantage = Grpo(epsilon=1e-6)([1] * 15 + [0], [0] * 16)
    np.testing.assert_allclose(advantage[[0, 15]], [0.249999, -3.749985], atol=5e-7)
    np.testing.assert_array_equal(advantage[:15], advantage[0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1 / 3, -2.7])
def test_equal_rewards_give_exactly_zero(method, reward):
    np.testing.assert_array_equal(call(method, [reward] * 7, [3] * 7), 0)


@pytest.mark.parametrize("method", METHODS)
def test_a_group_of_one_gets_zero(method):
    np.testing.assert_array_equal(call(method, [5.0, 1.0, 0.0], [0, 1, 1])[0], 0)


@pytest.mark.parametrize("method", METHODS)
def test_an_unscored_reward_gets_zero_and_does_not_move_the_baseline(method):
    advantage = call(method, [1, np.nan, 0, 1, np.nan], [4, 4, 4, 4, 9])
    np.testing.assert_array_equal(advantage[[1, 4]], 0)
    np.testing.assert_allclose(advantage[[0, 2, 3]], call(method, [1, 0, 1], [4, 4, 4]), atol=TOLERANCE)


@pytest.mark.parametrize("method", METHODS)
def test_no_rollouts_give_no_advantages(method):
    assert call(method, [], []).shape == (0,)


@pytest.mark.parametrize(("reward", "group", "words"), [([1, 2], [1], "shapes"), ([np.inf, 0], [1, 1], "infinite")])
def test_rewards_that_cannot_be_compared_are_refused(reward, group, words):
    with pytest.raises(DataError, match=words):
        Grpo()(reward, group)


def test_an_epsilon_of_zero_is_refused():
    with pytest.raises(ConfigError, match="credit.epsilon"):
        Grpo(epsilon=0)


@st.composite
def rollouts(draw):
    sizes = draw(st.lists(st.integers(1, 64), min_size=1, max_size=6))
    group_N = np.repeat(draw(st.permutations(range(len(sizes)))), sizes)
    numbers = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(-10, 10))
    reward_N = draw(hnp.arrays(np.float64, len(group_N), elements=numbers))
    order_N = np.random.default_rng(draw(st.integers(0, 2**32))).permutation(len(group_N))
    return reward_N, group_N, order_N


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rollouts())
def test_advantages_have_zero_mean_in_every_group_whatever_its_size(case):
    reward_N, group_N, _ = case
    for method in BY_GROUP:
        sums = np.bincount(group_N, weights=method(reward_N, group_N))
        np.testing.assert_allclose(sums, 0, atol=1e-7)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rollouts())
def test_advantages_do_not_depend_on_the_order_of_rows_or_on_other_groups(case):
    reward_N, group_N, order_N = case
    for method in METHODS:
        advantage_N = call(method, reward_N, group_N)
        # A deviation that is all rounding may be divided by epsilon alone.
        shuffled_N = call(method, reward_N[order_N], group_N[order_N])
        np.testing.assert_allclose(shuffled_N, advantage_N[order_N], atol=1e-7)
        if method not in BY_GROUP:
            continue
        alone = group_N == group_N[0]
        np.testing.assert_allclose(method(reward_N[alone], group_N[alone]), advantage_N[alone], atol=1e-7)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rollouts())
def test_an_answer_never_gets_less_than_one_of_its_group_with_a_lower_reward(case):
    reward_N, group_N, _ = case
    for method in METHODS:
        advantage_N = call(method, reward_N, group_N)
        for group in np.unique(group_N):
            rising = advantage_N[group_N == group][np.argsort(reward_N[group_N == group], kind="stable")]
            assert (np.diff(rising) >= -1e-12).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rollouts())
def test_advantages_follow_their_definition_group_by_group(case):
    reward_N, group_N, _ = case
    for group in np.unique(group_N):
        rows = group_N == group
        reward_G, size = reward_N[rows], int(rows.sum())
        centred = reward_G - reward_G.mean()
        std = reward_G.std(ddof=1) if size > 1 else 0.0
        others = [reward_G[i] - np.delete(reward_G, i).mean() if size > 1 else 0.0 for i in range(size)]
        np.testing.assert_allclose(Grpo()(reward_N, group_N)[rows], centred / (std + 1e-4), atol=1e-7)
        np.testing.assert_allclose(DrGrpo()(reward_N, group_N)[rows], centred, atol=1e-9)
        np.testing.assert_allclose(Rloo()(reward_N, group_N)[rows], others, atol=1e-9)
