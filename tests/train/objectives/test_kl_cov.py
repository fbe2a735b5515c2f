"""KL-Cov: worked covariances, who is penalised and how much, and the setting in which it does nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import tensor

from laconic.errors import ConfigError
from laconic.train.objectives import KlCov, LossInputs
from laconic.train.objectives.kl_cov import covariance

F64 = torch.float64
ADVANTAGE = [1.0, -1.0, 0.5, 0.0]
PROBABILITY = [0.9, 0.2, 0.1, 0.5]


def worked(weight=(1.0, 1.0, 1.0, 1.0), shift=(0.0, 0.0, 0.0, 0.0)) -> LossInputs:
    """The worked example; old log-probs lie ``shift`` below the current ones."""
    logp_M, weight_M = tensor(PROBABILITY, dtype=F64).log(), tensor(weight, dtype=F64)
    weighted_M = tensor(ADVANTAGE, dtype=F64) * weight_M
    zero_M, old_M = torch.zeros(4, dtype=F64), logp_M - tensor(shift, dtype=F64)
    return LossInputs(
        logp_M.clone().requires_grad_(), zero_M, old_M, zero_M, weighted_M.clamp(min=0), weighted_M.clamp(max=0),
        weight_M, weight_M, zero_M,
    )  # fmt: skip


def test_worked_covariances_put_the_tokens_in_order():
    assert covariance(worked()).tolist() == pytest.approx([0.9382, 0.4858, -0.4219, -0.0606], abs=5e-5)
    assert KlCov().highest_covariance(worked()).tolist() == [0]
    assert KlCov(ratio=0.5).highest_covariance(worked()).tolist() == [0, 1]
    assert KlCov(ratio=1.0).highest_covariance(worked()).tolist() == [0, 1, 3, 2]


def test_row_weights_do_not_change_who_is_penalised():
    assert covariance(worked((0.1, 7.0, 0.3, 2.0))).tolist() == pytest.approx(covariance(worked()).tolist())
    assert KlCov(ratio=1.0).highest_covariance(worked((0.1, 7.0, 0.3, 2.0))).tolist() == [0, 1, 3, 2]


@pytest.mark.parametrize(("tokens", "ratio", "count"), [(9, 0.002, 1), (999, 0.002, 1), (1000, 0.002, 2), (3, 1.0, 3)])
def test_the_share_is_rounded_down_to_at_least_one_token(tokens, ratio, count):
    zero_M = torch.zeros(tokens, dtype=F64)
    inputs = LossInputs(zero_M, zero_M, zero_M, zero_M, zero_M, zero_M, zero_M + 1, zero_M, zero_M)
    assert len(KlCov(ratio=ratio).highest_covariance(inputs)) == count


def test_the_loss_has_no_clipping_and_a_penalty_on_the_chosen_token_only():
    inputs = worked(weight=(0.5, 1.0, 2.0, 1.0), shift=(0.5, -0.7, 1.0, 0.2))
    ratio = [math.exp(shift) for shift in (0.5, -0.7, 1.0, 0.2)]
    policy = -(0.5 * ratio[0] - ratio[1] + 2 * 0.5 * ratio[2])
    loss = KlCov(coef=3.0)(inputs).loss
    assert loss.item() == pytest.approx(policy + 3 * 0.5 * 0.5)
    (gradient_M,) = torch.autograd.grad(loss, inputs.log_probs_M)
    assert gradient_M.tolist() == pytest.approx([-0.5 * ratio[0] + 1.5, ratio[1], -ratio[2], 0.0])


@pytest.mark.parametrize("shift", [0.3, -0.3])
def test_the_penalty_pulls_towards_the_policy_that_sampled(shift):
    inputs = worked(shift=(shift, 0, 0, 0))
    difference = KlCov(coef=2.0)(inputs).loss - KlCov(coef=0.0)(inputs).loss
    (gradient_M,) = torch.autograd.grad(difference, inputs.log_probs_M)
    assert gradient_M.tolist() == pytest.approx([2.0 if shift > 0 else -2.0, 0, 0, 0])


def test_the_penalty_has_no_gradient_before_the_first_update():
    inputs = worked()
    gradients = [torch.autograd.grad(KlCov(coef=c)(inputs).loss, inputs.log_probs_M)[0].tolist() for c in (0.0, 9.0)]
    assert gradients[0] == gradients[1]


def test_one_update_per_generation_is_refused():
    with pytest.raises(ConfigError, match="optim.updates_per_batch"):
        KlCov().check(updates_per_batch=1, epochs=1)
    KlCov().check(updates_per_batch=4, epochs=1)
    KlCov().check(updates_per_batch=1, epochs=2)


def test_it_asks_for_rows():
    assert KlCov.packs == "rows"


@pytest.mark.parametrize("options", [{"ratio": 0.0}, {"ratio": 1.5}, {"coef": -1.0}, {"kl": -0.1}])
def test_settings_out_of_range_are_refused_by_name(options):
    with pytest.raises(ConfigError, match=f"objective.{next(iter(options))}"):
        KlCov(**options)
