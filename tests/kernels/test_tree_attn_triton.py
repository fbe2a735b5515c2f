"""Tree attention in Triton against the slow twin: outputs, log-sum-exp and all gradients, no memory left unwritten."""

from __future__ import annotations

import pytest
import torch
from nearness import assert_near
from random_trees import binary, one_level, random_layout

from laconic.kernels import dispatch
from laconic.kernels.tree_attn import reference, tree_attention
from laconic.kernels.tree_layout import TreeLayout

# Tests say something about indices and algebra; races, shared memory and the tensor cores' rounding need a GPU.
LONG = pytest.mark.long
LAYOUTS = {
    "one token": TreeLayout.of_rows([1]),
    "15": TreeLayout.of_rows([15]),
    "17": one_level(9, [7, 1]),
    "63": random_layout(11, nodes=9, longest=14),
    "a chain of 100": TreeLayout.of_rows([100]),
    "rows": TreeLayout.of_rows([17, 1, 30, 15]),
    "two groups": TreeLayout.of_nodes([-1, 0, 0, -1, 3, 3, 3], [33, 9, 14, 3, 30, 1, 2]),
    "a deep tree": binary(6, 3),
}


def tensors_for(layout, heads, key_heads, dim, dtype, device):
    generator = torch.Generator().manual_seed(len(layout))
    shapes = [(len(layout), count, dim) for count in (heads, key_heads, key_heads, heads)]
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


def check(layout, device, tolerance, heads=4, key_heads=2, dim=16, dtype=torch.float32, plan=None, parts=None):
    from laconic.kernels.tree_attn import fused

    q, k, v, dout = tensors_for(layout, heads, key_heads, dim, dtype, device)
    results = []
    for way, kind in ((fused.with_lse, dtype), (reference.with_lse, torch.float64)):
        leaves = [tensor.detach().to(kind).requires_grad_() for tensor in (q, k, v)]
        options = {"plan": plan} if way is fused.with_lse else {}
        out, lse = way(*leaves, layout, dim**-0.5, **options)
        results.append((out, lse, *torch.autograd.grad(out, leaves, dout.to(kind))))
    for name, got, want in zip(("out", "lse", "dq", "dk", "dv"), *results, strict=True):
        if want.norm() < 1e-12:  # one token has no gradient of its key
            assert got.norm() < 1e-4, name
        else:
            assert_near(name, want, got.to(want.dtype), tolerance)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=LONG if name in ("63", "a chain of 100", "a deep tree") else ()) for name in LAYOUTS],
)
def test_odd_sizes_of_trees(name, triton_device):
    check(LAYOUTS[name], triton_device, 2e-6)


@pytest.mark.parametrize("group", [1, 2, 3, 6, *(pytest.param(group, marks=LONG) for group in (4, 5, 7, 8))])
def test_query_heads_share_key_heads(group, triton_device):
    key_heads = 2 if group < 4 else 1
    check(random_layout(4, nodes=5), triton_device, 2e-6, heads=group * key_heads, key_heads=key_heads)


@pytest.mark.parametrize("dim", [8, 24, 64, 128])
def test_head_sizes(dim, triton_device):
    check(random_layout(7, nodes=5), triton_device, 2e-6, heads=2, key_heads=1, dim=dim)


def test_half_precision(triton_device):
    check(random_layout(4, nodes=6), triton_device, 3e-3, dtype=torch.float16)


def test_bfloat16(triton_device):
    # Its stores are truncated by the interpreter, where a GPU rounds.
    check(random_layout(4, nodes=6), triton_device, 1e-2, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("query", "key"), [(16, 16), (32, 64), *(pytest.param(*both, marks=LONG) for both in ((16, 64), (32, 16)))]
)
def test_block_sizes(query, key, triton_device):
    from laconic.kernels.tree_attn.fused import Blocks, Plan

    blocks = Blocks(query, key, 1, 1)
    check(random_layout(8, nodes=8), triton_device, 2e-6, heads=2, key_heads=1, plan=Plan(blocks, blocks, blocks))


def test_long_sums_over_queries_are_made_in_parts(triton_device, monkeypatch):
    from laconic.kernels import tree_layout

    monkeypatch.setattr(tree_layout, "SHORTEST_PART", 2)
    layout = one_level(40, [11, 30, 9, 25])
    monkeypatch.setattr("laconic.kernels.tree_attn.fused.PROGRAMS", 10)
    assert layout.tiles(16, 32).work(5).slots > 2
    check(layout, triton_device, 2e-6)


def test_two_runs_give_the_same_bits(triton_device):
    layout = random_layout(9, nodes=8)
    q, k, v, dout = tensors_for(layout, 4, 2, 16, torch.float32, triton_device)
    runs = []
    for _ in range(2):
        leaves = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
        out = tree_attention(*leaves, layout)
        runs.append((out, *torch.autograd.grad(out, leaves, dout)))
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_nothing_outside_the_tensors_is_read_or_written(triton_device):
    """The tensors lie inside larger ones full of NaN."""
    from laconic.kernels.tree_attn import fused

    layout = random_layout(3, nodes=5)
    guarded, inner = [], []
    for tensor in tensors_for(layout, 4, 2, 24, torch.float32, triton_device):
        wide = tensor.new_full((len(layout) + 40, tensor.shape[1] + 2, 24 + 8), torch.nan)
        view = wide[20:-20, 1:-1, :24]
        view.copy_(tensor)
        guarded.append(wide)
        inner.append(view)
    leaves = [view.detach().requires_grad_() for view in inner[:3]]
    before = [wide.clone() for wide in guarded]
    out = fused.attention(*leaves, layout, 0.2)
    gradients = torch.autograd.grad(out, leaves, inner[3])
    assert all(torch.isfinite(tensor).all() for tensor in (out, *gradients))
    assert all(torch.equal(one.nan_to_num(), other.nan_to_num()) for one, other in zip(before, guarded, strict=True))


def test_an_empty_pack_launches_nothing(triton_device):
    layout = TreeLayout.of_rows([])
    leaves = [tensor.requires_grad_() for tensor in tensors_for(layout, 4, 2, 16, torch.float32, triton_device)[:3]]
    out = tree_attention(*leaves, layout)
    assert out.shape == (0, 4, 16) and all(gradient.numel() == 0 for gradient in torch.autograd.grad(out.sum(), leaves))


@pytest.mark.parametrize(
    ("dim", "dtype", "reason", "tolerance"),
    [(16, torch.float64, "tensors of torch.float64", 1e-13), (320, torch.float32, "head size 320 is above 256", 1e-5)],
)
def test_what_triton_cannot_take_falls_back_and_warns(
    dim, dtype, reason, tolerance, triton_device, caplog, monkeypatch
):
    monkeypatch.setattr(dispatch, "_said", set())
    layout = random_layout(3, nodes=4)
    q, k, v, _ = tensors_for(layout, 2, 1, dim, dtype, triton_device)
    assert_near("out", reference.tree_attention(q, k, v, layout, dim**-0.5), tree_attention(q, k, v, layout), tolerance)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and f"(triton: {reason}" in record.getMessage()
