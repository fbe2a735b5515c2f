"""KL estimates to the reference: values and gradients in closed form, and what their gradients are the mean of."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_inputs import F64, inputs_of, value_and_gradient

from laconic.errors import ConfigError
from laconic.train.objectives import Clip, Gspo
from laconic.train.objectives.kl import kl_estimate

NAMES = ("k1", "k2", "k3")
differences = st.floats(-4, 4)


@pytest.mark.parametrize(("name", "value"), [("k1", -0.1), ("k2", 0.005), ("k3", 0.0051709)])
def test_worked_numbers(name, value):
    logp_M, ref_M = torch.tensor([-1.0], dtype=F64), torch.tensor([-0.9], dtype=F64)
    assert kl_estimate(name, logp_M, ref_M).item() == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(d=differences, log_rho=differences, weight=st.floats(0.01, 3))
def test_value_and_gradient_equal_the_closed_form(name, d, log_rho, weight):
    value_of = {"k1": -d, "k2": d * d / 2, "k3": math.exp(d) - d - 1}[name]
    slope_of = {"k1": 1.0, "k2": -d, "k3": 1 - math.exp(d)}[name]
    corrected_slope = {"k1": 1 - d, "k2": -d, "k3": -d}[name]
    inputs = inputs_of(-1.5, -1.5 - log_rho, ref=-1.5 + d, kl=weight)
    rho = math.exp(log_rho)
    value, (slope,) = value_and_gradient(Clip(kl=0.7, kl_estimator=name), inputs)
    assert value == pytest.approx(0.7 * weight * rho * value_of, rel=1e-9, abs=1e-12)
    assert slope == pytest.approx(0.7 * weight * rho * corrected_slope, rel=1e-9, abs=1e-9)
    if name != "k1":
        value, (slope,) = value_and_gradient(Clip(kl=0.7, kl_estimator=name, bias_corrected_kl=False), inputs)
        assert (value, slope) == pytest.approx((0.7 * weight * value_of, 0.7 * weight * slope_of), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_corrected_gradients_are_on_average_that_of_the_divergence(name):
    """Exactly: a policy of four words, tokens drawn from an older one; the mean over its words is no sample."""
    theta = torch.tensor([0.3, -0.4, 1.1, 0.0], dtype=F64, requires_grad=True)
    ref, older = torch.tensor([0.0, 0.5, 0.2, -1.0], dtype=F64), torch.tensor([0.6, 0.1, 0.4, 0.2], dtype=F64)
    log_pi, log_ref, log_old = theta.log_softmax(0), ref.log_softmax(0), older.log_softmax(0)
    (want,) = torch.autograd.grad((log_pi.exp() * (log_pi - log_ref)).sum(), theta, retain_graph=True)
    words = inputs_of(log_pi.detach(), log_old, ref=log_ref, kl=log_old.exp())
    _, slopes = value_and_gradient(Clip(kl=1.0, kl_estimator=name), words)
    (got,) = torch.autograd.grad(log_pi, theta, torch.tensor(slopes, dtype=F64))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_k1_without_its_ratio_has_no_pull_and_is_refused():
    log_pi = torch.tensor([0.3, -0.4, 1.1], dtype=F64, requires_grad=True)
    probability = log_pi.softmax(0).detach()
    (mean,) = torch.autograd.grad((probability * log_pi.log_softmax(0)).sum(), log_pi)
    assert mean.abs().max() < 1e-15
    with pytest.raises(ConfigError, match=r"kl_estimator is k1 with objective\.bias_corrected_kl=false"):
        Clip(kl_estimator="k1", bias_corrected_kl=False)
    with pytest.raises(ConfigError, match="kl_estimator is k1"):
        Gspo(kl_estimator="k1", bias_corrected_kl=False)


@pytest.mark.parametrize("name", NAMES)
def test_an_absurd_reference_neither_overflows_nor_gives_nan(name):
    for ref in (-5000.0, 5000.0):
        value, gradient = value_and_gradient(Clip(kl=1.0, kl_estimator=name), inputs_of(-1.0, -1.0, ref=ref))
        assert math.isfinite(value) and all(map(math.isfinite, gradient))
