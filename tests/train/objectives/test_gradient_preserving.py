"""GPPO, CISPO and SAPO: worked numbers, and gradients where a finite difference of the value would be zero."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_inputs import inputs_of, value_and_gradient

from laconic.errors import ConfigError
from laconic.train.objectives import Cispo, Clip, Gppo, Sapo

ratios = st.floats(1e-3, 40.0)
advantages = st.floats(-3, 3).filter(lambda a: abs(a) > 1e-3)
off_the_edges = 1e-6


def one_token(advantage: float, ratio: float, **more):
    return inputs_of(math.log(ratio) - 1.5, -1.5, pos=max(advantage, 0), neg=min(advantage, 0), **more)


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "gradient"),
    [(1, 1.5, -1.28, -1.28), (-1, 0.5, 0.8, 0.8), (1, 0.5, -0.5, -0.5), (-1, 1.5, 1.5, 1.5), (1, 1.1, -1.1, -1.1),
     (-1, 12, 10, 0)],
)  # fmt: skip
def test_worked_numbers_of_gppo(advantage, ratio, loss, gradient):
    value, (slope,) = value_and_gradient(Gppo(), one_token(advantage, ratio))
    assert (value, slope) == pytest.approx((loss, gradient), rel=1e-12)


@pytest.mark.parametrize(("advantage", "ratio"), [(1, 1.5), (-1, 0.5)])
def test_clip_has_no_gradient_where_gppo_has_one(advantage, ratio):
    value, (slope,) = value_and_gradient(Clip(epsilon_high=0.28), one_token(advantage, ratio))
    assert slope == 0 and value == pytest.approx(value_and_gradient(Gppo(), one_token(advantage, ratio))[0])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(advantages, ratios, st.floats(0.05, 0.9), st.floats(0.05, 0.9), st.floats(0, 2), st.floats(0, 2))
def test_gradient_of_gppo_equals_the_closed_form_in_float64(advantage, ratio, low, high, beta_low, beta_high):
    gppo = Gppo(epsilon_low=low, epsilon_high=high, beta_low=beta_low, beta_high=beta_high)
    if min(abs(ratio - edge) for edge in (1 - low, 1 + high, 10.0)) < off_the_edges:
        return
    factor = moving = ratio
    if advantage > 0 and ratio > 1 + high:
        factor = moving = beta_high * (1 + high)
    if advantage < 0 and ratio < 1 - low:
        factor = moving = beta_low * (1 - low)
    if advantage < 0 and factor > 10:
        factor, moving = 10.0, 0.0
    value, (slope,) = value_and_gradient(gppo, one_token(advantage, ratio))
    assert value == pytest.approx(-factor * advantage, rel=1e-9)
    assert slope == pytest.approx(-moving * advantage, rel=1e-9)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(advantages, ratios)
def test_the_value_of_gppo_is_that_of_clip(advantage, ratio):
    clip = Clip(epsilon_high=0.28, delta=10.0)
    want, _ = value_and_gradient(clip, one_token(advantage, ratio))
    assert value_and_gradient(Gppo(), one_token(advantage, ratio))[0] == pytest.approx(want, rel=1e-12)


def test_gppo_sums_over_rows_that_share_a_token():
    rows = [(1.0, 0.5), (-0.5, 0.3), (0.25, 1.0)]
    for ratio in (0.3, 1.0, 2.0):
        alone = [value_and_gradient(Gppo(), one_token(a * w, ratio)) for a, w in rows]
        merged = inputs_of(
            math.log(ratio) - 1.5, -1.5, pos=sum(max(a, 0) * w for a, w in rows),
            neg=sum(min(a, 0) * w for a, w in rows),
        )  # fmt: skip
        value, (slope,) = value_and_gradient(Gppo(), merged)
        assert value == pytest.approx(sum(v for v, _ in alone)) and slope == pytest.approx(sum(s for _, (s,) in alone))


@pytest.mark.parametrize("distance", [-30.0, 30.0])
def test_gppo_keeps_the_gradient_of_a_token_beyond_the_exponential(distance):
    advantage = 1.0 if distance > 0 else -1.0
    inputs = inputs_of(-1.0, -1.0 - distance, pos=max(advantage, 0), neg=min(advantage, 0))
    assert value_and_gradient(Gppo(), inputs)[1] == [pytest.approx(-1.28 if distance > 0 else 0.8)]


def test_the_imitation_term_is_plain_log_likelihood_without_advantage():
    value, slope = value_and_gradient(Gppo(), inputs_of([-1.0, -3.0], [-1.0, -3.0], nll=[0.05, 0.0]))
    assert value == pytest.approx(0.05) and slope == pytest.approx([-0.05, 0.0])
    assert Gppo()(inputs_of([-1.0, -3.0], -1.0, nll=[0.05, 0.0])).metrics["policy/imitated"] == 0.5


def test_gppo_that_could_have_no_effect_is_refused():
    with pytest.raises(ConfigError, match="objective gppo with nll 0 has no effect"):
        Gppo(nll=0).check(updates_per_batch=1, epochs=1)
    Gppo().check(updates_per_batch=1, epochs=1)
    Gppo(nll=0).check(updates_per_batch=1, epochs=2)


@pytest.mark.parametrize(
    ("cap", "advantage", "ratio", "weight"),
    [(5, 1, 2.0, 2.0), (5, 1, 9.0, 5.0), (5, -2, 9.0, 5.0), (2, -1, 0.01, 0.01)],
)
def test_worked_numbers_of_cispo(cap, advantage, ratio, weight):
    value, (slope,) = value_and_gradient(Cispo(cap=cap), one_token(advantage, ratio))
    assert slope == pytest.approx(-weight * advantage, rel=1e-12)
    assert value == pytest.approx(-weight * advantage * (math.log(ratio) - 1.5), rel=1e-12)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(advantages, ratios, st.floats(1, 20))
def test_gradient_of_cispo_equals_the_closed_form(advantage, ratio, cap):
    _, (slope,) = value_and_gradient(Cispo(cap=cap), one_token(advantage, ratio))
    assert slope == pytest.approx(-min(ratio, cap) * advantage, rel=1e-9)


def test_a_cap_that_is_a_distance_is_refused():
    with pytest.raises(ConfigError, match=r"objective\.cap is 0\.2 but must be at least 1"):
        Cispo(cap=0.2)


@pytest.mark.parametrize(("tau", "value"), [(1.0, 2.48984), (1.05, 2.39359)])
def test_worked_numbers_of_sapo(tau, value):
    got, _ = value_and_gradient(Sapo(tau_pos=tau), one_token(1.0, 1.5))
    assert got == pytest.approx(-value, abs=1e-5)
    got, (slope,) = value_and_gradient(Sapo(tau_pos=tau), one_token(1.0, 1.0))
    assert (got, slope) == pytest.approx((-2 / tau, -1.0), rel=1e-12)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(advantages, ratios)
def test_gradient_of_sapo_equals_the_closed_form(advantage, ratio):
    tau = 1.0 if advantage > 0 else 1.05
    gate = 1 / (1 + math.exp(-tau * (ratio - 1)))
    value, (slope,) = value_and_gradient(Sapo(), one_token(advantage, ratio))
    assert value == pytest.approx(-4 / tau * gate * advantage, rel=1e-9)
    assert slope == pytest.approx(-4 * gate * (1 - gate) * ratio * advantage, rel=1e-7, abs=1e-12)


@pytest.mark.parametrize(
    ("method", "options", "word"),
    [
        (Gppo, {"dual_clip": 0.9}, "dual_clip"),
        (Gppo, {"beta_low": -1.0}, "beta_low"),
        (Gppo, {"nll": -0.1}, "objective.nll"),
        (Gppo, {"epsilon_low": 1.5}, "epsilon_low"),
        (Sapo, {"tau_neg": 0.0}, "tau_neg"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(method, options, word):
    with pytest.raises(ConfigError, match=word):
        method(**options)
