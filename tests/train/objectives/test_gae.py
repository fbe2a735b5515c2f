"""GAE, lambda by length, value loss: worked numbers and what holds for every row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from laconic.train.objectives.gae import gae, length_adaptive_lambda, value_loss

REWARD, VALUE = [[0.0, 0.0, 1.0]], [[0.5, 0.6, 0.8]]
numbers = st.floats(-2, 2)
rows = hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 12)), elements=numbers)
shares = st.floats(0, 1)


@pytest.mark.parametrize(("lambda_", "advantage"), [(0.95, [0.4705, 0.39, 0.2]), (1.0, [0.5, 0.4, 0.2])])
def test_worked_numbers(lambda_, advantage):
    np.testing.assert_allclose(gae(REWARD, VALUE, gamma=1.0, lambda_B=lambda_), [advantage], atol=1e-12)


@pytest.mark.parametrize(
    ("length", "lambda_"), [(20, 0.0), (100, 0.8), (1000, 0.98), (8000, 0.9975), (1, 0.0), (0, 0.0)]
)
def test_worked_lambdas_of_vapo(length, lambda_):
    assert length_adaptive_lambda([length], 0.05)[0] == pytest.approx(lambda_, abs=1e-15)


def test_geometric_weights_of_vapo_add_up_to_a_share_of_the_length():
    for length in (100, 1000, 8000):
        lambda_ = length_adaptive_lambda([length], 0.05)[0]
        assert 1 / (1 - lambda_) == pytest.approx(0.05 * length)


def test_with_lambda_below_one_the_outcome_does_not_reach_the_start_of_a_long_answer():
    reward = np.zeros((1, 101))
    reward[0, -1] = 1.0
    assert gae(reward, np.zeros((1, 101)), gamma=1.0, lambda_B=0.95)[0, 0] == pytest.approx(0.0059, abs=5e-5)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(rows, shares, shares, st.integers(0, 10**6))
def test_it_equals_the_recursion_token_by_token_and_skips_what_is_not_trained(value_BT, gamma, lambda_, seed):
    rng = np.random.default_rng(seed)
    reward_BT, trained_BT = rng.normal(size=value_BT.shape), rng.random(value_BT.shape) < 0.7
    got = gae(reward_BT, value_BT, gamma=gamma, lambda_B=lambda_, trained_BT=trained_BT)
    for row in range(len(value_BT)):
        steps = np.flatnonzero(trained_BT[row])
        assert not got[row][~trained_BT[row]].any()
        following = advantage = 0.0
        for t in steps[::-1]:
            advantage = reward_BT[row, t] + gamma * following - value_BT[row, t] + gamma * lambda_ * advantage
            following = value_BT[row, t]
            assert got[row, t] == pytest.approx(advantage, rel=1e-9, abs=1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows, st.floats(-1, 1))
def test_with_gamma_and_lambda_one_every_return_is_the_outcome(value_BT, outcome):
    reward_BT = np.zeros_like(value_BT)
    reward_BT[:, -1] = outcome
    np.testing.assert_allclose(gae(reward_BT, value_BT, gamma=1.0, lambda_B=1.0) + value_BT, outcome, atol=1e-9)


def test_each_row_has_its_own_lambda():
    both = gae(REWARD * 2, VALUE * 2, gamma=1.0, lambda_B=[0.95, 1.0])
    np.testing.assert_allclose(both, [[0.4705, 0.39, 0.2], [0.5, 0.4, 0.2]], atol=1e-12)


@pytest.mark.parametrize(
    ("value", "old", "target", "clip", "loss", "slope", "clipped"),
    [
        (0.5, 0.5, 1.0, 0.2, 0.125, -0.5, False),
        (0.9, 0.5, 1.0, 0.2, 0.045, 0.0, True),  # moved far towards the target: held at 0.7, no gradient
        (0.9, 0.5, 0.0, 0.2, 0.405, 0.9, False),  # moved far the wrong way: the larger error acts
        (0.9, 0.5, 1.0, None, 0.005, -0.1, False),
    ],
)
def test_worked_value_losses(value, old, target, clip, loss, slope, clipped):
    value_M = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    loss_M, clipped_M = value_loss(value_M, *(torch.tensor([x], dtype=torch.float64) for x in (old, target)), clip)
    loss_M.sum().backward()
    assert (loss_M.item(), value_M.grad.item()) == pytest.approx((loss, slope), abs=1e-12)
    assert clipped_M.item() is clipped
