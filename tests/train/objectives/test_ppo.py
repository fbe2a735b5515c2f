"""PPO's loss: the clipped policy term with each token's advantage, and the value loss beside it."""

from __future__ import annotations

import pytest
import torch
from loss_inputs import inputs_of

from laconic.errors import ConfigError
from laconic.train.objectives import Clip, Ppo, Vapo, VcPpo


def test_the_value_loss_has_the_row_weight_and_its_own_gradient():
    inputs = inputs_of(
        [-1.0, -1.2, -0.7], [-1.1, -1.0, -0.7], pos=[0.3, 0, 0.1], neg=[0, -0.2, 0], kl=[0.5, 0.25, 2.0],
        value=[0.5, 0.9, 0.4], old_value=[0.5, 0.5, 0.3], returns=[1.0, 1.0, 0.0],
    )  # fmt: skip
    outputs = Ppo(value_coef=3.0)(inputs)
    policy = Clip()(inputs).loss
    # The second value moved beyond 0.5 + 0.2 towards its return: it is held at 0.7, without a gradient.
    errors = [0.5**2, 0.3**2, 0.4**2]
    want = 3 * sum(weight * error / 2 for weight, error in zip([0.5, 0.25, 2.0], errors, strict=True))
    assert (outputs.loss - policy).item() == pytest.approx(want)
    slope_M, logp_slope_M = torch.autograd.grad(outputs.loss, (inputs.value_M, inputs.log_probs_M), retain_graph=True)
    assert slope_M.tolist() == pytest.approx([3 * 0.5 * -0.5, 0.0, 3 * 2.0 * 0.4])
    torch.testing.assert_close(logp_slope_M, torch.autograd.grad(policy, inputs.log_probs_M)[0], rtol=0, atol=0)
    assert outputs.metrics["value/loss"] == pytest.approx(sum(errors) / 6)
    assert outputs.metrics["value/clipped"] == pytest.approx(1 / 3)


def test_nothing_pulls_the_policy_where_only_the_value_is_learned():
    """The critic's warm-up leaves the row weight of the value loss alone (``with_credit``)."""
    inputs = inputs_of([-1.0, -1.2], [-1.1, -1.0], ref=[-0.5, -2.0], kl=[0.5, 0.25], ent=0.0, returns=1.0)
    loss = Ppo(kl=0.3, kl_estimator="k1", entropy=0.1)(inputs).loss
    value_M, *policy = torch.autograd.grad(loss, (inputs.value_M, inputs.log_probs_M, inputs.entropy_M))
    assert value_M.tolist() == pytest.approx([-0.5, -0.25])
    assert not any(slope_M.any() for slope_M in policy)


def test_all_tokens_are_kept_because_values_learn_from_each():
    assert Ppo().touches_all_tokens and Ppo.critic and not Clip.critic and Ppo.packs == "rows"


def test_presets_are_those_of_their_papers():
    assert (VcPpo().lambda_actor, VcPpo().lambda_critic) == (0.95, 1.0)
    vapo = Vapo()
    assert (vapo.length_adaptive, vapo.lambda_critic, vapo.epsilon_high, vapo.nll) == (0.05, 1.0, 0.28, 0.1)
    assert vapo.normalizer == "token_mean" and VcPpo().value_warmup and vapo.value_warmup


@pytest.mark.parametrize(
    "options",
    [{"gamma": 1.1}, {"lambda_actor": -0.1}, {"lambda_critic": 2.0}, {"length_adaptive": 0.0}, {"value_coef": 0.0},
     {"value_speed": 0.0}, {"value_clip": 0.0}, {"value_width": -1}, {"value_warmup": -1}, {"epsilon_low": 2.0}],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))}"):
        Ppo(**options)
