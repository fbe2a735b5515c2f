"""Whitening over the batch: worked numbers, and that ranks and the order of rows do not matter."""

import numpy as np
import pytest
from credit_trees import Wire
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import ConfigError, DataError
from laconic.train.credit import ReinforcePP

REWARD, GROUP = [1, 0, 0, 0, 1, 1, 1, 0], [0] * 4 + [1] * 4
LENGTH = [100, 400, 400, 400, 100, 100, 100, 400]


def test_deviations_from_the_group_are_divided_by_the_batchs_deviation():
    found = ReinforcePP(weights="rollouts", ddof=0)(REWARD, GROUP)
    root = 3**0.5
    np.testing.assert_allclose(found, [root, *[-root / 3] * 3, *[root / 3] * 3, -root], atol=1e-7)


def test_the_unbiased_deviation_of_rollouts():
    found = ReinforcePP(weights="rollouts")(REWARD, GROUP)
    np.testing.assert_allclose(found[:2], [1.6202, -0.5401], atol=5e-5)


def test_tokens_weigh_in_the_published_form():
    # mean -.225, variance .1369435
    found = ReinforcePP()(REWARD, GROUP, LENGTH)
    np.testing.assert_allclose(found, [2.6347, *[-0.0676] * 3, *[1.2836] * 3, -1.4187], atol=5e-5)
    assert np.dot(found, LENGTH) == pytest.approx(0, abs=1e-9)


def test_without_a_baseline_only_the_batch_is_compared():
    found = ReinforcePP(baseline="none", weights="rollouts", ddof=0)([1, 1, 0, 0, 0, 0, 0, 0], [0, 0, *[1] * 6])
    np.testing.assert_allclose(found, [*[3**0.5] * 2, *[-(3**-0.5)] * 6], atol=1e-6)


def test_groups_of_equal_rewards_count_as_if_a_filter_had_dropped_them():
    found = ReinforcePP()([*REWARD, 0, 0, 1], [*GROUP, 2, 2, 3], [*LENGTH, 50, 70, 90])
    np.testing.assert_array_equal(found[:8], ReinforcePP()(REWARD, GROUP, LENGTH))
    np.testing.assert_array_equal(found[8:], 0)


def test_unscored_rollouts_get_0_and_count_for_nothing():
    found = ReinforcePP()([np.nan, *REWARD], [0, *GROUP], [900, *LENGTH])
    np.testing.assert_array_equal(found, [0, *ReinforcePP()(REWARD, GROUP, LENGTH)])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from(["group", "none"]), st.sampled_from(["tokens", "rollouts"]))
def test_ranks_and_the_order_of_rows_do_not_change_a_bit(seed, baseline, weights):
    rng = np.random.default_rng(seed)
    group_N = np.repeat(np.arange(6), rng.integers(1, 9, 6))
    reward_N = np.where(rng.random(len(group_N)) < 0.1, np.nan, rng.integers(0, 2, len(group_N)))
    length_N = rng.integers(0, 500, len(group_N))
    method = ReinforcePP(baseline=baseline, weights=weights)
    together = method(reward_N, group_N, length_N)
    assert np.isfinite(together).all()
    order = rng.permutation(len(group_N))
    np.testing.assert_array_equal(method(reward_N[order], group_N[order], length_N[order]), together[order])

    wire, mine = Wire(), group_N % 2 == 0
    method(reward_N[~mine], group_N[~mine], length_N[~mine], wire)
    np.testing.assert_array_equal(method(reward_N[mine], group_N[mine], length_N[mine], wire), together[mine])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_the_batch_has_mean_0_and_deviation_1_in_its_weights(seed):
    rng = np.random.default_rng(seed)
    group_N = np.repeat(np.arange(8), 8)
    reward_N, length_N = rng.integers(0, 2, 64).astype(float), rng.integers(1, 50, 64)
    for weights in ("tokens", "rollouts"):
        advantage_N = ReinforcePP(weights=weights)(reward_N, group_N, length_N)
        alive = np.isin(group_N, [g for g in range(8) if np.ptp(reward_N[group_N == g]) > 0])
        weight = np.where(weights == "tokens", length_N, 1) * alive
        assert np.dot(weight, advantage_N) == pytest.approx(0, abs=1e-8)
        assert np.dot(weight, advantage_N**2) / (weight.sum() - 1) == pytest.approx(1, abs=1e-6)


def test_lengths_are_needed_and_checked():
    for length in (None, [1, 2], [*LENGTH[:-1], -1], [*LENGTH[:-1], np.inf]):
        with pytest.raises(DataError, match="length_N|lengths"):
            ReinforcePP()(REWARD, GROUP, length)


def test_settings_that_cannot_work_are_refused():
    for wrong in ({"ddof": 2}, {"epsilon": 0}):
        with pytest.raises(ConfigError, match=f"credit.{next(iter(wrong))}"):
            ReinforcePP(**wrong)
