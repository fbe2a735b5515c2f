"""The fused head against log_softmax over all logits, values and every gradient."""

from __future__ import annotations

import math
from contextlib import contextmanager

import pytest
import torch
from nearness import assert_near
from torch import Tensor

from laconic.kernels import fused_logprob as module
from laconic.kernels.fused_logprob import fused_logprob, tiled
from laconic.kernels.fused_logprob.reference import fused_logprob_reference

# (tokens, hidden, vocabulary), none a multiple of the tiles (16 x 32)
SIZES = [(1, 5, 3), (15, 16, 33), (17, 31, 100), (35, 24, 65)]
TRANSFORMS = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "scaled": {"scale": 0.3, "temperature": 1.5},
    "soft cap": {"soft_cap": 4.0},
    "all": {"soft_cap": 3.0, "scale": 1.7, "temperature": 0.7},
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiled, "TILE_TOKENS", 16)
    monkeypatch.setattr(tiled, "TILE_WORDS", 32)
    monkeypatch.setattr(tiled, "CHUNK_TOKENS", 48)


def operands(tokens: int, hidden: int, words: int, bias: bool, device: str = "cpu", dtype=torch.float64) -> dict:
    generator = torch.Generator().manual_seed(tokens)
    shapes = {"hidden_MH": (tokens, hidden), "weight_VH": (words, hidden)} | ({"bias": (words,)} if bias else {})
    made = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    made = {name: value.to(device, dtype).requires_grad_() for name, value in made.items()}
    targets = torch.randint(0, words, (tokens,), generator=generator)
    if tokens > 1:
        targets[0], targets[-1] = 0, words - 1
    return made | {"targets_M": targets.to(device)}


def compare(want_given: dict, got_given: dict, transform: dict, tolerance: float, entropy: bool = True) -> None:
    full = dict(temperature=1.0, scale=1.0, soft_cap=None) | transform
    want = fused_logprob_reference(
        bias_V=want_given.get("bias"), **{k: v for k, v in want_given.items() if k != "bias"}, **full
    )
    got = fused_logprob(**got_given, **transform)
    generator = torch.Generator().manual_seed(3)
    seeds = [torch.randn(len(want[0]), generator=generator, dtype=torch.float64) for _ in range(1 + entropy)]
    leaves = [[g[n] for n in ("hidden_MH", "weight_VH", "bias") if n in g] for g in (want_given, got_given)]
    want_grads = torch.autograd.grad(want[: 1 + entropy], leaves[0], seeds)
    got_seeds = [seed.to(got[0]) for seed in seeds]
    got_grads = torch.autograd.grad(got[: 1 + entropy], leaves[1], got_seeds)
    for name, w, g in zip(("log_probs", "entropy"), want, got, strict=True):
        assert_near(name, w, g, tolerance)
    for name, w, g in zip(("d hidden", "d weight", "d bias"), want_grads, got_grads, strict=False):
        assert_near(name, w, g, tolerance)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(("size", "bias"), [(SIZES[0], False), (SIZES[1], True), (SIZES[2], False), (SIZES[3], True)])
def test_tiles_equal_the_whole(size, bias, transform):
    compare(operands(*size, bias), operands(*size, bias), TRANSFORMS[transform], 1e-12)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(("size", "bias"), [(SIZES[0], False), (SIZES[1], True), (SIZES[2], False), (SIZES[3], True)])
def test_the_kernels_equal_the_twin(size, bias, transform, triton_device):
    got = operands(*size, bias, triton_device, torch.float32)
    compare(operands(*size, bias), got, TRANSFORMS[transform], 5e-6)


def test_the_kernels_write_gradients_in_the_type_of_half_precision_operands(triton_device):
    """Logits are of full precision all the same: only operands and gradients are rounded."""
    want, got = (operands(17, 31, 100, True, triton_device, torch.float16) for _ in range(2))
    wide = {n: v.detach().double().requires_grad_() if v.is_floating_point() else v for n, v in want.items()}
    log_probs_M, entropy_M = fused_logprob(**got)
    wanted = fused_logprob_reference(
        wide["hidden_MH"], wide["weight_VH"], wide["targets_M"], wide["bias"], 1.0, 1.0, None
    )
    assert log_probs_M.dtype == entropy_M.dtype == torch.float32
    assert (log_probs_M.double() - wanted[0]).abs().max() < 1e-4 and (entropy_M.double() - wanted[1]).abs().max() < 1e-3
    names = ("hidden_MH", "weight_VH", "bias")
    grads = torch.autograd.grad(log_probs_M.sum() + entropy_M.sum(), [got[n] for n in names])
    wanted_grads = torch.autograd.grad(wanted[0].sum() + wanted[1].sum(), [wide[n] for n in names])
    for name, w, g in zip(names, wanted_grads, grads, strict=True):
        assert g.dtype == torch.float16
        assert_near(name, w, g, 2e-3)


def test_worked_numbers_of_four_words():
    hidden, weight = torch.ones(1, 1).double(), torch.tensor([[2.0], [1.0], [0.0], [-1.0]]).double()
    weight.requires_grad_()
    log_prob, entropy = fused_logprob(hidden, weight, torch.tensor([1]), temperature=0.5)
    assert [log_prob.item(), entropy.item()] == pytest.approx([-2.14508, 0.45543], abs=1e-5)
    by_logp, by_entropy = (
        torch.autograd.grad(x, weight, retain_graph=True)[0][:, 0].tolist() for x in (log_prob, entropy)
    )
    assert by_logp == pytest.approx([-1.72991, 1.76588, -0.03168, -0.00429], abs=1e-5)
    assert by_entropy == pytest.approx([-0.53688, 0.39558, 0.11690, 0.02440], abs=1e-5)


def test_the_twins_gradients_are_those_of_finite_differences():
    given = operands(3, 4, 7, True)

    def run(hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return fused_logprob_reference(hidden, weight, given["targets_M"], bias, 0.7, 1.3, 2.0)

    assert torch.autograd.gradcheck(run, (given["hidden_MH"], given["weight_VH"], given["bias"]))


def test_a_gradient_of_log_probs_alone_or_of_entropy_alone():
    compare(operands(17, 8, 50, False), operands(17, 8, 50, False), {}, 1e-12, entropy=False)
    want, got = operands(17, 8, 50, False), operands(17, 8, 50, False)
    expected = fused_logprob_reference(want["hidden_MH"], want["weight_VH"], want["targets_M"], None, 1.0, 1.0, None)
    w, g = (
        torch.autograd.grad(expected[1].sum(), want["hidden_MH"]),
        torch.autograd.grad(fused_logprob(**got)[1].sum(), got["hidden_MH"]),
    )
    assert_near("d hidden by entropy", w[0], g[0], 1e-12)


def test_tokens_without_gradient_are_left_out_of_the_backward_pass(monkeypatch):
    want, got = operands(300, 8, 50, False), operands(300, 8, 50, False)
    weight_M = torch.where(torch.arange(300) % 3 == 0, 1.0, 0.0).double()
    expected = fused_logprob_reference(want["hidden_MH"], want["weight_VH"], want["targets_M"], None, 1.0, 1.0, None)
    rows = []
    product = tiled._product
    monkeypatch.setattr(tiled, "_product", lambda h, *rest: rows.append(len(h)) or product(h, *rest))
    log_probs_M, _ = fused_logprob(**got)
    assert sum(rows) == 300 * 2  # two tiles of words
    rows.clear()
    leaves = [[g["hidden_MH"], g["weight_VH"]] for g in (want, got)]
    w = torch.autograd.grad((expected[0] * weight_M).sum(), leaves[0])
    g = torch.autograd.grad((log_probs_M * weight_M).sum(), leaves[1])
    assert sum(rows) == 100 * 2
    assert_near("d hidden", w[0], g[0], 1e-12)
    assert_near("d weight", w[1], g[1], 1e-12)


def test_only_the_gradients_that_are_asked_for_are_computed():
    given = operands(5, 4, 9, True)
    given["weight_VH"] = given["weight_VH"].detach()
    given["bias"] = given["bias"].detach()
    log_probs_M, _ = fused_logprob(**given)
    log_probs_M.sum().backward()
    assert given["hidden_MH"].grad is not None and given["weight_VH"].grad is None and given["bias"].grad is None


def test_a_second_derivative_is_refused_instead_of_wrong():
    given = operands(5, 4, 9, False)
    log_probs_M, _ = fused_logprob(**given)
    seed = torch.ones_like(log_probs_M).requires_grad_()
    (by_hidden_MH,) = torch.autograd.grad(log_probs_M, given["hidden_MH"], seed, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        by_hidden_MH.sum().backward()


def test_no_tokens_give_empty_results_that_belong_to_the_graph():
    given = operands(0, 4, 9, True)
    log_probs_M, entropy_M = fused_logprob(**given)
    assert log_probs_M.shape == entropy_M.shape == (0,)
    (log_probs_M.sum() + entropy_M.sum()).backward()
    assert all((given[name].grad == 0).all() for name in ("hidden_MH", "weight_VH", "bias"))


def test_large_logits_neither_overflow_nor_lose_the_target():
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[1000.0], [-1000.0], [999.0]])
    log_probs, entropy = fused_logprob(hidden.expand(3, 1), weight, torch.arange(3))
    assert log_probs.tolist() == pytest.approx([-math.log1p(math.exp(-1)), -2000.3133, -1.3132617], abs=1e-3)
    assert entropy.isfinite().all()


def test_under_autocast_operands_are_rounded_and_logits_are_not():
    given = operands(15, 16, 33, False, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_probs_M, entropy_M = fused_logprob(**given)
    rounded = [given[name].detach().bfloat16().double() for name in ("hidden_MH", "weight_VH")]
    want = fused_logprob_reference(*rounded, given["targets_M"], None, 1.0, 1.0, None)
    assert log_probs_M.dtype == torch.float32
    assert (log_probs_M.double() - want[0]).abs().max() < 1e-4
    log_probs_M.sum().backward()
    assert given["weight_VH"].grad.dtype == torch.float32
    assert (entropy_M.double() - want[1]).abs().max() < 1e-4


def test_the_twin_is_as_exact_under_autocast():
    given = operands(15, 16, 33, False, dtype=torch.float32)
    given = [given[name] for name in ("hidden_MH", "weight_VH", "targets_M")]
    want = fused_logprob_reference(*given, None, 1.0, 1.0, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = fused_logprob_reference(*given, None, 1.0, 1.0, None)
    assert all(torch.equal(one, other) for one, other in zip(want, got, strict=True))


def test_logits_never_exist_for_all_tokens_at_once(monkeypatch):
    sizes = []
    product = tiled._product

    def spy(*given):
        out = product(*given)
        sizes.append(out.numel())
        return out

    monkeypatch.setattr(tiled, "_product", spy)
    given = operands(100, 8, 200, False)
    fused_logprob(**given)[0].sum().backward()
    assert sizes and max(sizes) <= 16 * 32


def test_the_head_is_gathered_around_the_backward_pass():
    entered = []

    @contextmanager
    def gather(*parameters):
        entered.append(len(parameters))
        yield

    given = operands(5, 4, 9, True)
    log_probs_M, _ = fused_logprob(**given, gather=gather)
    assert not entered
    log_probs_M.sum().backward()
    assert entered == [2]


def test_shapes_that_do_not_fit_are_refused():
    given = operands(5, 4, 9, True)
    with pytest.raises(ValueError, match=r"\(M, H\) and \(V, H\)"):
        fused_logprob(given["hidden_MH"], given["weight_VH"][:, :3], given["targets_M"])
    with pytest.raises(ValueError, match="must be"):
        fused_logprob(given["hidden_MH"], given["weight_VH"], given["targets_M"][:4])


def test_the_backends_are_named_as_the_variable_names_them():
    assert [backend.name for backend in module._BACKENDS] == ["triton", "sdpa", "ref"]


@pytest.mark.gpu
def test_bfloat16_log_probs_are_within_a_thousandth_of_float64(triton_device, monkeypatch):
    monkeypatch.setattr(tiled, "TILE_TOKENS", 1024)
    monkeypatch.setattr(tiled, "TILE_WORDS", 8192)
    given = operands(3000, 512, 30_001, False, triton_device, torch.bfloat16)
    given["weight_VH"] = (given["weight_VH"].detach() / 5).requires_grad_()
    log_probs_M, entropy_M = fused_logprob(**given)
    wide = [given[name].detach().double().requires_grad_() for name in ("hidden_MH", "weight_VH")]
    want = fused_logprob_reference(*wide, given["targets_M"], None, 1.0, 1.0, None)
    assert (log_probs_M.double() - want[0]).abs().max() < 1e-3
    assert (entropy_M.double() - want[1]).abs().max() < 1e-2
    got_grads = torch.autograd.grad(log_probs_M.sum(), [given["hidden_MH"], given["weight_VH"]])
    for name, w, g in zip(("d hidden", "d weight"), torch.autograd.grad(want[0].sum(), wide), got_grads, strict=True):
        assert_near(name, w, g, 1e-2)
