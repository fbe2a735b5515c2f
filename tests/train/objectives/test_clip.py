"""The clipped loss: worked numbers, the two-weight identity, gradients, and switches that must not leak NaN."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_inputs import F64, NAN, inputs_of, value_and_gradient
from torch import Tensor, tensor

from laconic.errors import ConfigError
from laconic.train.objectives import OBJECTIVES, Clip, KlCov, LossInputs


@pytest.mark.parametrize(
    ("epsilon_high", "pos", "neg", "ratio", "loss", "gradient"),
    [
        (0.2, 1, 0, math.exp(0.2), -1.2, 0.0),
        (0.28, 1, 0, math.exp(0.2), -1.221403, -1.221403),
        (0.28, 1, 0, 1.5, -1.28, 0.0),
        (0.28, 0, -1, 0.5, 0.8, 0.0),
        (0.28, 0, -1, 1.5, 1.5, 1.5),
        (0.2, 1, 0, 0.5, -0.5, -0.5),
        # Tokens shared by rows with advantages 1, -0.5 and 0.25: the rows sum to 0.85, one summed advantage gives 0.90.
        (0.2, 1.25, -0.5, 1.3, -0.85, 0.65),
    ],
)
def test_worked_numbers(epsilon_high, pos, neg, ratio, loss, gradient):
    given_inputs = inputs_of(-1.2 + math.log(ratio), -1.2, pos=pos, neg=neg)
    value, (slope,) = value_and_gradient(Clip(epsilon_high=epsilon_high), given_inputs)
    assert (value, slope) == pytest.approx((loss, gradient), abs=1e-6)


def test_worked_number_of_the_kl_term():
    value, _ = value_and_gradient(Clip(kl=2.0, bias_corrected_kl=False), inputs_of(-1.0, -1.2, ref=-0.9))
    assert value == pytest.approx(2 * 0.0051709, abs=1e-6)
    value, _ = value_and_gradient(Clip(kl=2.0), inputs_of(-1.0, -1.2, ref=-0.9))
    assert value == pytest.approx(2 * 0.0051709 * 1.221403, abs=1e-6)


def test_delta_bounds_what_a_negative_advantage_is_multiplied_with():
    value, (slope,) = value_and_gradient(Clip(delta=4.0), inputs_of(0.0, -2.0, neg=-1))
    assert (value, slope) == (4.0, 0.0)
    value, _ = value_and_gradient(Clip(), inputs_of(0.0, -2.0, neg=-1))
    assert value == pytest.approx(math.exp(2))


ratios = st.floats(0.05, 8).map(math.log)
epsilons = st.floats(0.01, 0.6)
per_row = st.lists(st.tuples(st.floats(-3, 3), st.floats(0.01, 2)), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(ratios, per_row, epsilons, epsilons, st.one_of(st.none(), st.floats(1.7, 9)))
def test_two_weights_give_the_sum_over_rows_that_share_a_token_and_its_gradient(log_ratio, rows, low, high, delta):
    """Brute force: every row with its own advantage A and weight w, by PPO's min(rho A, clip(rho) A)."""
    logp = tensor(log_ratio - 1.0, dtype=F64, requires_grad=True)
    total = torch.zeros((), dtype=F64)
    for advantage, weight in rows:
        ratio = (logp - (-1.0)).exp()
        bounded = ratio if delta is None else ratio.clamp(max=delta)
        total = total - weight * torch.min(bounded * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
    (want,) = torch.autograd.grad(total, logp)

    pos = sum(max(advantage, 0) * weight for advantage, weight in rows)
    neg = sum(min(advantage, 0) * weight for advantage, weight in rows)
    merged = inputs_of(log_ratio - 1.0, -1.0, pos=pos, neg=neg)
    value, (slope,) = value_and_gradient(Clip(epsilon_low=low, epsilon_high=high, delta=delta), merged)
    assert value == pytest.approx(total.item(), rel=1e-9, abs=1e-9)
    assert slope == pytest.approx(want.item(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    "objective",
    [Clip(), Clip(kl=0.3, entropy=0.1, delta=3.0), Clip(kl=0.3, bias_corrected_kl=False), KlCov(kl=0.2, ratio=0.1)],
)
def test_gradients_equal_finite_differences_in_float64(objective):
    generator = torch.Generator().manual_seed(4)

    def draw(scale: float) -> Tensor:
        return torch.randn(40, generator=generator, dtype=F64) * scale

    logp_M = -draw(1.0).abs() - 0.1
    constants = (logp_M + draw(0.5), logp_M + draw(0.5), draw(1.0).clamp(min=0), draw(1.0).clamp(max=0))
    weights = (draw(1.0).abs() + 0.1, draw(1.0).abs(), draw(1.0).abs())

    def loss(log_probs_M: Tensor, entropy_M: Tensor) -> Tensor:
        return objective(LossInputs(log_probs_M, entropy_M, *constants, *weights)).loss

    arguments = (logp_M.clone().requires_grad_(), draw(1.0).abs().requires_grad_())
    assert torch.autograd.gradcheck(loss, arguments, eps=1e-7, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("objective", [method() for method in OBJECTIVES.values()])
def test_an_unknown_old_log_prob_counts_as_a_ratio_of_one(objective):
    value, gradient = value_and_gradient(objective, inputs_of([-1.0, -3.0], NAN, pos=[1.0, 0], neg=[0, -2.0]))
    assert math.isfinite(value) and gradient == pytest.approx([-1.0, 2.0])


@pytest.mark.parametrize("objective", [method() for method in OBJECTIVES.values()])
def test_terms_that_are_off_do_not_read_their_inputs(objective):
    value, gradient = value_and_gradient(objective, inputs_of([-1.0, -1.5], -1.1, pos=1.0, ref=NAN, entropy=NAN))
    assert math.isfinite(value) and all(map(math.isfinite, gradient))


@pytest.mark.parametrize("objective", [method() for method in OBJECTIVES.values()])
def test_an_absurd_ratio_neither_overflows_nor_gives_nan(objective):
    for old in (-2000.0, 2000.0):
        value, gradient = value_and_gradient(objective, inputs_of(-1.0, old, pos=0.5, neg=-1.0))
        assert math.isfinite(value) and all(map(math.isfinite, gradient))


@pytest.mark.parametrize("objective", [method() for method in OBJECTIVES.values()])
def test_no_tokens_give_a_loss_of_zero_with_a_gradient_and_finite_metrics(objective):
    outputs = objective(inputs_of([], 0.0))
    assert outputs.loss.item() == 0 and outputs.loss.requires_grad
    assert all(math.isfinite(value) for value in outputs.metrics.values())


@pytest.mark.parametrize("objective", [method(kl=0.1) for method in OBJECTIVES.values()])
def test_metrics_have_the_same_names_with_and_without_tokens(objective):
    empty, full = (objective(inputs_of(logp, -1.0, pos=1.0, ref=-1.0)).metrics for logp in ([], [-1.0, -1.1]))
    assert empty.keys() == full.keys()


def test_metrics_say_what_was_clipped():
    inputs = inputs_of([0.0] * 4, [-1.0, 0.0, 1.0, 1.0], pos=[1.0, 1, 0, 1], neg=[0.0, 0, -1, 0], entropy=2.0)
    metrics = Clip()(inputs).metrics
    assert (metrics["policy/clipped_high"], metrics["policy/clipped_low"]) == (0.25, 0.25)
    assert metrics["policy/entropy"] == 2.0
    assert metrics["policy/ratio_max"] == pytest.approx(math.e)
    # k3 to the old policy: e^d - d - 1 with d = -1, 0, 1, 1.
    assert metrics["policy/kl_old"] == pytest.approx((math.exp(-1) + 2 * (math.e - 2)) / 4)


def test_only_terms_that_act_on_every_token_keep_rows_without_advantage():
    assert not Clip().touches_all_tokens
    assert Clip(kl=0.1).touches_all_tokens and Clip(entropy=0.1).touches_all_tokens and KlCov().touches_all_tokens


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"epsilon_low": 1.2}, "epsilon_low"),
        ({"epsilon_high": -0.1}, "epsilon_high"),
        ({"delta": 1.1}, "objective.delta"),
        ({"kl": -1.0}, "objective.kl"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(options, word):
    with pytest.raises(ConfigError, match=word):
        Clip(**options)
