"""GSPO: the ratio of a row, its clipping, and how token credit passes through it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from loss_inputs import inputs_of, value_and_gradient

from laconic.train.objectives import Gspo

WORKED = [math.log(1.2), math.log(0.9), 0.0]
BOTH = [True, False]


@pytest.mark.parametrize("token_credit", BOTH)
def test_worked_ratio_is_the_geometric_mean(token_credit):
    wide = Gspo(epsilon_low=0.2, epsilon_high=0.2, token_credit=token_credit)
    value, slope = value_and_gradient(wide, inputs_of(WORKED, 0.0, pos=1 / 3, row=[0, 0, 0]))
    assert value == pytest.approx(-1.0259856, abs=1e-7)  # 1.08^(1/3)
    assert slope == pytest.approx([-1.0259856 / 3] * 3, abs=1e-7)


@pytest.mark.parametrize("token_credit", BOTH)
@pytest.mark.parametrize(("pos", "neg", "bound"), [(1.0, 0.0, 1 + 4e-4), (0.0, -1.0, None)])
def test_a_row_is_clipped_as_a_whole(token_credit, pos, neg, bound):
    inputs = inputs_of(WORKED, 0.0, pos=pos, neg=neg, row=[0, 0, 0])
    value, slope = value_and_gradient(Gspo(token_credit=token_credit), inputs)
    ratio = bound or 1.08 ** (1 / 3)
    assert value == pytest.approx(-3 * (pos + neg) * ratio)
    assert slope == pytest.approx([0.0 if bound else 1.08 ** (1 / 3)] * 3)


def test_rows_of_different_lengths_do_not_mix_whatever_their_order():
    rng = np.random.default_rng(1)
    logp, old, row = rng.normal(-2, 1, 12), rng.normal(-2, 1, 12), [3, 0, 3, 1, 0, 3, 3, 1, 0, 3, 7, 3]
    pos = np.array([0.1, 0.2, 0.1, 0.7, 0.2, 0.1, 0.1, 0.7, 0.2, 0.1, 1.0, 0.1])
    wide = Gspo(epsilon_low=1.0, epsilon_high=1e9)
    value, slope = value_and_gradient(wide, inputs_of(logp, old, pos=pos, row=row))
    want, slopes = 0.0, np.zeros(12)
    for one in set(row):
        at = [index for index, name in enumerate(row) if name == one]
        ratio = math.exp(np.mean(logp[at] - old[at]))
        want -= ratio * pos[at].sum()
        slopes[at] = -ratio * pos[at]
    assert value == pytest.approx(want) and slope == pytest.approx(slopes.tolist())


def test_one_advantage_per_row_gives_equal_gradients_with_and_without_token_credit():
    rng = np.random.default_rng(2)
    logp, old = rng.normal(-2, 0.1, 10), rng.normal(-2, 0.1, 10)
    inputs = inputs_of(logp, old, pos=[0.3] * 4 + [0.0] * 6, neg=[0.0] * 4 + [-0.2] * 6, row=[0] * 4 + [1] * 6)
    both = [value_and_gradient(Gspo(epsilon_low=0.2, epsilon_high=0.2, token_credit=t), inputs) for t in BOTH]
    assert both[0][0] == pytest.approx(both[1][0], rel=1e-12) and both[0][1] == pytest.approx(both[1][1], rel=1e-12)


def test_token_credit_keeps_what_the_ratio_itself_would_spread_over_the_row():
    inputs = inputs_of([-1.0, -1.0], -1.0, pos=[1.0, 0.0], row=[0, 0])
    assert value_and_gradient(Gspo(), inputs)[1] == pytest.approx([-1.0, 0.0])
    assert value_and_gradient(Gspo(token_credit=False), inputs)[1] == pytest.approx([-0.5, -0.5])


@pytest.mark.parametrize("token_credit", BOTH)
def test_gradients_equal_finite_differences_in_float64(token_credit):
    generator = torch.Generator().manual_seed(3)
    logp_M = -torch.rand(9, generator=generator, dtype=torch.float64) - 0.2
    inputs = inputs_of(logp_M, logp_M + 0.05, pos=0.4, row=[0, 0, 0, 1, 1, 2, 2, 2, 2])
    wide = Gspo(epsilon_low=0.9, epsilon_high=9.0, token_credit=token_credit)
    _, slope = value_and_gradient(wide, inputs)
    for token in range(9):
        moved = []
        for step in (1e-6, -1e-6):
            shifted = logp_M.clone()
            shifted[token] += step
            moved.append(
                value_and_gradient(wide, inputs_of(shifted, logp_M + 0.05, pos=0.4, row=[0, 0, 0, 1, 1, 2, 2, 2, 2]))[0]
            )
        # Both have one advantage per row, so the surrogate's gradient is that of the value.
        assert slope[token] == pytest.approx((moved[0] - moved[1]) / 2e-6, rel=1e-6)


def test_tokens_without_an_old_log_prob_count_as_unchanged():
    inputs = inputs_of([0.3, -1.0], [0.0, math.nan], pos=1.0, row=[0, 0])
    value, _ = value_and_gradient(Gspo(epsilon_high=1.0), inputs)
    assert value == pytest.approx(-2 * math.exp(0.15))
