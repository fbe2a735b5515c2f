"""Merging two attention results against attention over all keys at once, values and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from nearness import assert_near
from torch import Tensor

from laconic.kernels.merge_lse import merge_lse, merge_parts
from laconic.kernels.merge_lse.reference import merge_lse_reference


def random_parts(rows: int, width: int, device: str = "cpu", dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rows * 1000 + width)
    shapes = [(rows, 3, width), (rows, 3)] * 2
    parts = [torch.randn(shape, generator=generator, dtype=torch.float64) * 3 for shape in shapes]
    return [part.to(device, dtype).requires_grad_() for part in parts]


def test_worked_numbers_of_two_parts():
    scores, values = torch.tensor([[1.0, 2.0], [0.0, 3.0]]).double(), torch.tensor([[1.0, 3.0], [2.0, 4.0]]).double()
    lse = scores.logsumexp(1)
    o = (scores.softmax(1) * values).sum(1, keepdim=True)
    assert lse.tolist() == pytest.approx([2.313262, 3.048587], abs=1e-6)
    assert o[:, 0].tolist() == pytest.approx([2.462117, 3.905148], abs=1e-6)
    merged, total = merge_lse(o[0], lse[0], o[1], lse[1])
    assert total.item() == pytest.approx(3.440190, abs=1e-6)
    assert merged.item() == pytest.approx(3.437567, abs=1e-6)


def test_parts_of_one_attention_merge_to_it_in_any_order():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((5, 8), (30, 8), (30, 8)))
    scores = q @ k.T
    parts = [
        (scores[:, s].softmax(1) @ v[s], scores[:, s].logsumexp(1)) for s in (slice(0, 4), slice(4, 5), slice(5, 30))
    ]
    want_o, want_lse = scores.softmax(1) @ v, scores.logsumexp(1)
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        a, b, c = (parts[index] for index in order)
        o, lse = merge_lse(*merge_lse(*a, *b), *c)
        assert_near("o", want_o, o, 1e-12)
        assert_near("lse", want_lse, lse, 1e-12)
    o, lse = merge_parts(torch.stack([o for o, _ in parts]), torch.stack([lse for _, lse in parts]))
    assert_near("o of three at once", want_o, o, 1e-12)


def test_the_twins_gradients_are_those_of_finite_differences():
    assert torch.autograd.gradcheck(merge_lse_reference, random_parts(3, 4))


@pytest.mark.parametrize("first_empty", [True, False])
def test_a_part_without_keys_changes_nothing_even_if_its_output_is_no_number(first_empty):
    full, empty = (torch.randn(4, 6), torch.randn(4)), (torch.full((4, 6), math.nan), torch.full((4,), -math.inf))
    o, lse = merge_lse(*(empty + full if first_empty else full + empty))
    assert torch.equal(o, full[0]) and torch.equal(lse, full[1])


def test_two_parts_without_keys_give_zero_and_minus_infinity_and_no_gradient():
    parts = [torch.zeros(2, 3), torch.full((2,), -math.inf)] * 2
    parts = [part.clone().requires_grad_() for part in parts]
    o, lse = merge_lse(*parts)
    assert (o == 0).all() and (lse == -math.inf).all()
    grads = torch.autograd.grad(o.sum(), parts, allow_unused=True)
    assert all(grad is None or (grad == 0).all() for grad in grads)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="same shapes"):
        merge_lse(torch.zeros(3, 4), torch.zeros(3), torch.zeros(3, 4), torch.zeros(4))


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (5, 7), (17, 64), (9, 100), (0, 8)])
def test_the_kernel_equals_the_twin_forward_and_backward(rows, width, triton_device):
    want_parts, got_parts = random_parts(rows, width), random_parts(rows, width, triton_device, torch.float32)
    if rows > 4:
        for parts in (want_parts, got_parts):
            with torch.no_grad():
                parts[1][2] = parts[1][3, 1] = parts[3][3, 1] = parts[3][4] = -math.inf
    want, got = merge_lse_reference(*want_parts), merge_lse(*got_parts)
    assert_near("o", want[0], got[0], 1e-6)
    assert_near("lse", want[1], got[1], 1e-6)
    generator = torch.Generator().manual_seed(7)
    seeds = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in want]
    if rows > 4:
        # what has no keys has no gradient to ask for
        seeds[1][3, 1] = 0.0
    want_grads = torch.autograd.grad(want, want_parts, seeds)
    got_grads = torch.autograd.grad(got, got_parts, [seed.to(triton_device, torch.float32) for seed in seeds])
    for name, w, g in zip(("do1", "dlse1", "do2", "dlse2"), want_grads, got_grads, strict=True):
        assert_near(name, w, g, 2e-6)


@pytest.mark.gpu
def test_half_precision_keeps_the_type_of_its_outputs(triton_device):
    parts = random_parts(33, 128)
    half = [p.detach().to(triton_device, torch.bfloat16 if p.dim() == 3 else torch.float32) for p in parts]
    o, lse = merge_lse(*half)
    assert o.dtype == torch.bfloat16 and lse.dtype == torch.float32
    want, _ = merge_lse_reference(*[p.double() for p in half])
    assert_near("o", want, o, 5e-3)
