"""The policy loss in one pass against the objectives of the training code, values, gradients and counts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from nearness import assert_near
from torch import Tensor

from laconic.kernels.pg_loss import LossSpec, pg_loss
from laconic.train.objectives.base import LossInputs
from laconic.train.objectives.cispo import Cispo
from laconic.train.objectives.clip import Clip
from laconic.train.objectives.gppo import Gppo
from laconic.train.objectives.policy import PolicyLoss
from laconic.train.objectives.sapo import Sapo

OBJECTIVES: dict[str, PolicyLoss] = {
    "clip": Clip(),
    "two-sided": Clip(epsilon_high=0.28, delta=2.0),
    "clip, k3": Clip(kl=0.3),
    "clip, k1": Clip(kl=0.3, kl_estimator="k1"),
    "clip, k2": Clip(kl=0.3, kl_estimator="k2"),
    "clip, plain k3": Clip(kl=0.3, bias_corrected_kl=False),
    "clip, plain k2": Clip(kl=0.3, kl_estimator="k2", bias_corrected_kl=False),
    "entropy": Clip(entropy=0.1),
    "corrected": Clip(old="recompute", importance_cap=1.5),
    "gppo": Gppo(),
    "gppo, betas": Gppo(beta_low=0.75, beta_high=0.5, dual_clip=1.8, kl=0.1, entropy=0.02),
    "gppo without dual clip": Gppo(dual_clip=None),
    "cispo": Cispo(cap=1.5, kl=0.2),
    "sapo": Sapo(tau_pos=1.2, kl=0.2, old="recompute"),
}


def inputs(tokens: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> LossInputs:
    """Tokens of every region: clipped on both sides, beyond the clamp, without an old or an engine's log-prob."""
    generator = torch.Generator().manual_seed(tokens)

    def draw(scale: float = 1.0) -> Tensor:
        return torch.randn(tokens, generator=generator, dtype=torch.float64) * scale

    logp = -draw().abs() - 0.1
    old, engine = logp + draw(0.4), logp + draw(0.4)
    old[1::7], engine[2::5], old[3::17] = math.nan, math.nan, logp[3::17] - 25
    w_pos, w_neg = draw().clamp(min=0), draw().clamp(max=0)
    named = dict(
        log_probs_M=logp, entropy_M=draw().abs(), old_logp_M=old, ref_logp_M=logp + draw(0.3), engine_logp_M=engine,
        w_pos_M=w_pos, w_neg_M=w_neg, w_kl_M=draw().abs(), w_ent_M=draw().abs(), w_nll_M=draw().clamp(min=0),
    )  # fmt: skip
    moved = {name: value.to(device, dtype) for name, value in named.items()}
    for name in ("log_probs_M", "entropy_M"):
        moved[name].requires_grad_()
    return LossInputs(**moved)


def by_kernel(given: LossInputs, spec: LossSpec):
    names = ("w_pos_M", "w_neg_M", "w_kl_M", "w_ent_M", "w_nll_M", "engine_logp_M")
    rest = {name: getattr(given, name) for name in names}
    return pg_loss(given.log_probs_M, given.entropy_M, given.old_logp_M, given.ref_logp_M, spec=spec, **rest)


def assert_equal_to_the_objective(objective: PolicyLoss, got: LossInputs, tokens: int, tolerance: float) -> None:
    want = inputs(tokens)
    # nll is in the weights already; an objective without it has weights of 0
    weights = want.w_nll_M if objective.nll else want.w_nll_M * 0
    want, got = replace(want, w_nll_M=weights), replace(got, w_nll_M=weights.to(got.log_probs_M))
    outputs = objective(want)
    spec = objective.spec()
    assert spec is not None
    one_pass = objective.in_one_pass(got, spec)
    assert_near("loss", outputs.loss, one_pass.loss, tolerance)
    leaves = [(x.log_probs_M, x.entropy_M) for x in (want, got)]
    want_grads = torch.autograd.grad(outputs.loss * 0.7, leaves[0], allow_unused=True)
    got_grads = torch.autograd.grad(one_pass.loss * 0.7, leaves[1], allow_unused=True)
    for name, w, g in zip(("by log-prob", "by entropy"), want_grads, got_grads, strict=True):
        assert (w is None) == (g is None), name
        if w is not None:
            assert_near(name, w, g, tolerance)
    assert one_pass.metrics == pytest.approx(outputs.metrics, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_twin_equals_the_objective(name):
    assert_equal_to_the_objective(OBJECTIVES[name], inputs(101), 101, 1e-12)


@pytest.mark.parametrize("tokens", [1, 63, 1025])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_kernel_equals_the_objective(name, tokens, triton_device):
    got = inputs(tokens, torch.float32, triton_device)
    assert_equal_to_the_objective(OBJECTIVES[name], got, tokens, 5e-6)


def test_worked_numbers_of_single_tokens():
    def one(logp: float, old: float, advantage: float, spec: LossSpec, ref: float = math.nan) -> tuple[float, float]:
        values = [torch.tensor([x], dtype=torch.float64) for x in (logp, 0.0, old, ref)]
        values[0].requires_grad_()
        one, zero = torch.ones(1).double(), torch.zeros(1).double()
        w = dict(w_pos_M=one * max(advantage, 0), w_neg_M=one * min(advantage, 0), w_ent_M=zero, w_nll_M=zero)
        loss, _ = pg_loss(*values, spec=spec, w_kl_M=one * (not math.isnan(ref)), **w)
        return loss.item(), torch.autograd.grad(loss, values[0])[0].item()

    def at(ratio: float) -> tuple[float, float]:
        return -1.0, -1.0 - math.log(ratio)

    assert one(-1.0, -1.2, 1, LossSpec("clip")) == pytest.approx((-1.2, 0.0))
    assert one(-1.0, -1.2, 1, LossSpec("clip", epsilon_high=0.28)) == pytest.approx((-1.221403, -1.221403), abs=1e-6)
    gppo = LossSpec("gppo", epsilon_high=0.28)
    assert one(*at(1.5), 1, gppo) == pytest.approx((-1.28, -1.28))
    assert one(*at(0.5), -1, gppo) == pytest.approx((0.8, 0.8))
    assert one(*at(1.5), -1, gppo) == pytest.approx((1.5, 1.5))
    loss, _ = one(-1.0, -1.0, 0, LossSpec("clip", kl=1.0, kl_corrected=False), ref=-0.9)
    assert loss == pytest.approx(0.0051709, abs=1e-7)


def test_two_leaves_of_one_token_collapse_to_two_weights():
    """Advantages 1 and -2 with weight 1/2 each at a ratio of 1.5, bounds 0.2 and 0.28."""
    old, half = torch.tensor([-1.0 - math.log(1.5)]).double(), torch.tensor([0.5]).double()
    spec = LossSpec("clip", epsilon_high=0.28)

    def loss_of(w_pos: Tensor, w_neg: Tensor) -> tuple[float, float]:
        logp = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
        rest = dict(w_kl_M=half, w_ent_M=half, w_nll_M=half * 0)
        loss, _ = pg_loss(logp, half, old, old, spec=spec, w_pos_M=w_pos, w_neg_M=w_neg, **rest)
        return loss.item(), torch.autograd.grad(loss, logp)[0].item()

    together = loss_of(half, half * -2)
    assert together == pytest.approx((0.86, 1.5))
    assert together == pytest.approx(
        [sum(x) for x in zip(loss_of(half, half * 0), loss_of(half * 0, half * -2), strict=True)]
    )


def test_the_twins_gradient_is_that_of_finite_differences():
    """For the losses without constants inside, which finite differences do not know."""
    given = inputs(20)
    given = replace(given, old_logp_M=given.ref_logp_M.flip(0).clamp(-2, 0))
    for spec in (LossSpec("sapo", kl=0.3, entropy=0.1), LossSpec("ratio", kl=0.3), LossSpec("clip")):

        def loss(logp: Tensor, entropy: Tensor, spec: LossSpec = spec) -> Tensor:
            return by_kernel(replace(given, log_probs_M=logp, entropy_M=entropy), spec).loss

        assert torch.autograd.gradcheck(loss, (given.log_probs_M, given.entropy_M))


def test_inserted_tokens_without_log_probs_are_neutral():
    nan, zero = torch.full((2,), math.nan).double(), torch.zeros(2).double()
    logp = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    weights = dict.fromkeys(("w_pos_M", "w_neg_M", "w_kl_M", "w_ent_M", "w_nll_M"), zero)
    spec = LossSpec("clip", kl=0.1, importance_cap=2.0)
    loss, _ = pg_loss(logp, zero, nan, nan, engine_logp_M=nan, spec=spec, **weights)
    assert loss.item() == 0 and (torch.autograd.grad(loss, logp)[0] == 0).all()


def test_no_tokens_give_a_loss_of_zero_that_belongs_to_the_graph(triton_device):
    for device in ("cpu", triton_device):
        given = inputs(0, torch.float32, device)
        loss, counts = by_kernel(given, LossSpec("clip", kl=0.1, entropy=0.1))
        loss.backward()
        assert loss.item() == 0 and counts["tokens"] == 0 and counts["ratio_max"] == 0


@pytest.mark.parametrize("gain", ["ratio", "clip", "gppo", "cispo", "sapo"])
def test_a_policy_log_prob_that_is_no_number_is_not_hidden(gain, triton_device):
    given = inputs(5, torch.float32, triton_device)
    with torch.no_grad():
        given.log_probs_M[2] = math.nan
    loss = by_kernel(given, LossSpec(gain)).loss
    loss.backward()
    assert loss.isnan() and given.log_probs_M.grad.isnan().tolist() == [False, False, True, False, False]


def test_shapes_that_differ_are_refused():
    given = inputs(5)
    with pytest.raises(ValueError, match="one value per token"):
        by_kernel(replace(given, w_kl_M=given.w_kl_M[:4]), LossSpec("clip"))


def test_a_loss_that_inherits_a_spec_but_has_a_term_of_its_own_is_not_mistaken():
    class Own(Clip):
        def policy_term(self, inputs):
            return super().policy_term(inputs)

    assert not Own()._spec_is_of_its_term
    assert all(objective._spec_is_of_its_term for objective in OBJECTIVES.values())
