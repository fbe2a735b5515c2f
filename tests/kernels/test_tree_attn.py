"""Tree attention: every implementation against the slow twin, outputs and all gradients."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from nearness import assert_near
from random_trees import binary, one_level, random_layout

from laconic.errors import ConfigError, DataError
from laconic.kernels import dispatch
from laconic.kernels.tree_attn import decomposed, flex, reference, sdpa, tree_attention
from laconic.kernels.tree_layout import TreeLayout

EXACT = 1e-13
"""For float64."""
SINGLE = 2e-6
"""For float32: sums in another order."""
WAYS = {
    "dense": sdpa.dense,
    "units of 128": sdpa.by_unit,
    "units of 7": lambda *args: sdpa.by_unit(*args, unit=7),
    "by level": decomposed.attention,
}
LAYOUTS = {
    "one token": TreeLayout.of_rows([1]),
    "a chain": TreeLayout.of_rows([63]),
    "rows": TreeLayout.of_rows([17, 1, 30, 15]),
    "a star": one_level(33, [1, 20, 7, 20]),
    "two groups": TreeLayout.of_nodes([-1, 0, 0, -1, 3, 3, 3], [10, 9, 14, 3, 30, 1, 2]),
    "a deep tree": binary(5, 4),
    **{f"random {seed}": random_layout(seed, nodes=10) for seed in range(4)},
}


def inputs(layout, heads=4, key_heads=2, dim=16, dtype=torch.float64, seed=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(len(layout), count, dim) for count in (heads, key_heads, key_heads, heads)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for shape in shapes]
    return [tensor.requires_grad_() for tensor in tensors[:3]], tensors[3]


def out_and_gradients(attention, tensors, dout, layout, scale=0.3):
    out = attention(*tensors, layout, scale)
    return dict(zip(("out", "dq", "dk", "dv"), (out, *torch.autograd.grad(out, tensors, dout)), strict=True))


def assert_same(attention, layout, tolerance, *, of_out=None, scale=0.3, **options):
    """Against the twin in float64 on the same numbers; the output within ``of_out`` if that is given."""
    tensors, dout = inputs(layout, **options)
    got = out_and_gradients(attention, tensors, dout, layout, scale)
    exact = [tensor.detach().cpu().double().requires_grad_() for tensor in tensors]
    want = out_and_gradients(reference.tree_attention, exact, dout.cpu().double(), layout, scale)
    for name in want:
        assert got[name].dtype == tensors[0].dtype and got[name].shape == want[name].shape
        if want[name].norm() < 1e-12:  # one token has no gradient of its key
            assert got[name].norm() < 1e-5, name
        else:
            assert_near(name, want[name], got[name].cpu(), of_out or tolerance if name == "out" else tolerance)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("way", WAYS)
def test_each_way_gives_what_the_twin_gives(way, name):
    assert_same(WAYS[way], LAYOUTS[name], EXACT)


@pytest.mark.parametrize(("heads", "key_heads"), [(1, 1), (3, 3), (4, 1), (6, 2), (8, 1)])
@pytest.mark.parametrize("way", WAYS)
def test_query_heads_share_key_heads(way, heads, key_heads):
    assert_same(WAYS[way], LAYOUTS["two groups"], EXACT, heads=heads, key_heads=key_heads)


@pytest.mark.parametrize("dim", [5, 64, 128])
@pytest.mark.parametrize("way", WAYS)
def test_any_head_size_in_single_precision(way, dim):
    assert_same(WAYS[way], LAYOUTS["random 1"], SINGLE, dim=dim, dtype=torch.float32, scale=dim**-0.5)


@pytest.mark.parametrize("way", WAYS)
def test_half_precision_is_summed_in_single(way):
    assert_same(WAYS[way], LAYOUTS["random 2"], 1e-2, dtype=torch.bfloat16)


def test_the_twin_passes_a_gradient_check():
    layout = random_layout(1, nodes=4, longest=3)
    tensors, _ = inputs(layout, dim=4)
    assert torch.autograd.gradcheck(lambda *args: reference.tree_attention(*args, layout, 0.3), tensors)
    assert torch.autograd.gradcheck(lambda *args: sdpa.by_unit(*args, layout, 0.3, 3), tensors)


@pytest.mark.parametrize("seed", range(3))
def test_a_packed_tree_gives_what_its_rows_give(seed):
    layout = random_layout(seed, nodes=9)
    tensors, dout = inputs(layout)
    packed = out_and_gradients(sdpa.by_unit, tensors, dout, layout)
    paths = [np.flatnonzero(layout.mask()[leaf]) for leaf in range(len(layout)) if layout.sub_end[leaf] == leaf + 1]
    summed = {name: torch.zeros_like(packed[name]) for name in ("dq", "dk", "dv")}
    seen = torch.zeros(len(layout), dtype=torch.bool)
    for path in paths:
        row = [tensor.detach()[path].requires_grad_() for tensor in tensors]
        new = ~seen[path]  # a shared token's output is differentiated in the first row that holds it
        alone = out_and_gradients(
            reference.tree_attention, row, dout[path] * new[:, None, None], TreeLayout.of_rows([len(path)])
        )
        assert_near("out", packed["out"][path], alone["out"], EXACT)
        for name in summed:
            summed[name][path] += alone[name]
        seen[path] = True
    for name in summed:
        assert_near(name, summed[name], packed[name], EXACT)


def test_tokens_of_other_branches_have_no_influence_at_all():
    layout = one_level(6, [5, 4])
    tensors, _ = inputs(layout)
    changed = [tensor.detach().clone() for tensor in tensors]
    for tensor in changed:
        tensor[6:11] = torch.randn(5, *tensor.shape[1:], dtype=tensor.dtype) * 1e3
    for attention in WAYS.values():
        before, after = attention(*tensors, layout, 0.3), attention(*changed, layout, 0.3)
        assert torch.equal(before[:6], after[:6]) and torch.equal(before[11:], after[11:])


@pytest.mark.parametrize("way", WAYS)
def test_an_empty_pack_gives_an_empty_output(way):
    assert_same(WAYS[way], TreeLayout.of_rows([]), EXACT)


@pytest.mark.parametrize("way", ["units of 128", "by level"])
def test_a_second_derivative_is_refused_instead_of_wrong(way):
    layout = one_level(4, [3, 3])
    tensors, dout = inputs(layout)
    out = WAYS[way](*tensors, layout, 0.3)
    (dq,) = torch.autograd.grad(out, tensors[0], dout.requires_grad_(), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dq.sum().backward()


def test_tokens_that_lie_side_by_side_are_not_copied():
    of_one = decomposed.parts_of(one_level(6, [5, 4]), torch.device("cpu"))
    assert [(part.queries, part.keys) for part in of_one] == [(slice(0, 15),) * 2, (slice(6, 15), slice(0, 6))]
    _, responses = decomposed.parts_of(LAYOUTS["two groups"], torch.device("cpu"))
    assert isinstance(responses.queries, torch.Tensor) and responses.keys.tolist() == [*range(10), *range(33, 36)]


def test_tensors_need_not_lie_in_order():
    layout = LAYOUTS["random 0"]
    tensors, dout = inputs(layout)
    want = out_and_gradients(reference.tree_attention, tensors, dout, layout)
    for attention in WAYS.values():
        spread = [tensor.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for tensor in tensors]
        got = out_and_gradients(attention, spread, dout.expand_as(dout), layout)
        for name in want:
            assert_near(name, want[name], got[name], EXACT)


def test_flex_sees_what_the_mask_says():
    layout = random_layout(5, nodes=9, longest=40)
    block_mask = flex.block_mask(layout, "cpu", 16)
    shown = np.zeros((len(layout), len(layout)), bool)
    tiles = block_mask.to_dense()[0, 0].bool().numpy()
    shown = tiles.repeat(16, 0).repeat(16, 1)[: len(layout), : len(layout)]
    assert (shown | ~layout.mask()).all(), "a tile with a visible element is skipped"
    index = torch.arange(len(layout))
    by_element = block_mask.mask_mod(0, 0, index[:, None], index[None, :])
    np.testing.assert_array_equal(by_element.numpy(), layout.mask())


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_gives_what_the_twin_gives():
    layout = random_layout(2, nodes=6)
    tensors, _ = inputs(layout, dtype=torch.float32)
    with torch.no_grad():
        got = flex.attention(*(tensor.detach() for tensor in tensors), layout, 0.3, compiled=False)
        want = reference.tree_attention(*tensors, layout, 0.3)
    assert_near("out", want, got, SINGLE)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["fa", "flex", "triton", "sdpa"])
@pytest.mark.parametrize("dim", [64, 128])
def test_every_gpu_backend_gives_what_the_twin_gives(name, dim, monkeypatch):
    monkeypatch.setenv(dispatch.VARIABLE, name)
    layout = TreeLayout.of_nodes([-1, 0, 1, 1, 0, -1, 5, 5], [700, 300, 211, 400, 90, 130, 57, 1])

    def attention(q, k, v, layout, scale):
        return tree_attention(q, k, v, layout, scale=scale)

    shape = dict(heads=12, key_heads=2, dim=dim, scale=dim**-0.5)
    assert_same(attention, layout, 1e-2, of_out=5e-3, dtype=torch.bfloat16, device="cuda", **shape)


def test_the_public_function_scales_by_the_head_size():
    layout = LAYOUTS["random 0"]
    tensors, _ = inputs(layout)
    assert_near("out", reference.tree_attention(*tensors, layout, 0.25), tree_attention(*tensors, layout), EXACT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v: (q[:-1], k, v), r"shapes \(9, 4, 16\).*layout of 10"),
        (lambda q, k, v: (q, k[:, :, :8], v), "shapes"),
        (lambda q, k, v: (q[:, :3], k, v), "multiple"),
        (lambda q, k, v: (q, k.float(), v.float()), "torch.float32 on cpu"),
        (lambda q, k, v: (q[None], k[None], v[None]), "shapes"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, message):
    layout = one_level(4, [3, 3])
    tensors, _ = inputs(layout)
    with pytest.raises(DataError, match=message):
        tree_attention(*change(*tensors), layout)
    with pytest.raises(DataError, match="above 0"):
        tree_attention(*tensors, layout, scale=0.0)


def test_the_twin_is_as_exact_under_autocast():
    layout = LAYOUTS["random 0"]
    tensors, _ = inputs(layout, dtype=torch.float32)
    want = reference.with_lse(*tensors, layout, 0.25)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = reference.with_lse(*tensors, layout, 0.25)
    assert all(torch.equal(one, other) for one, other in zip(want, got, strict=True))


@pytest.fixture
def said(monkeypatch, caplog):
    monkeypatch.setattr(dispatch, "_said", set())
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    caplog.set_level(logging.INFO, "laconic.kernels.dispatch")
    return lambda: [record.getMessage() for record in caplog.records]


def test_what_runs_and_why_the_others_do_not_is_logged_once(said, caplog):
    layout = one_level(4, [3, 3])
    tensors, _ = inputs(layout)
    for _ in range(3):
        tree_attention(*tensors, layout)
    (message,) = said()
    assert caplog.records[0].levelname == "INFO", "what is made for a GPU and doesn't run on a CPU is no news"
    assert message.startswith("tree_attention runs on sdpa (triton: ")
    assert "; fa: on a CPU" in message


@pytest.mark.parametrize("name", ["ref", "sdpa", "fa"])
def test_what_is_forced_runs(name, said, monkeypatch):
    layout = one_level(4, [3, 3])
    tensors, _ = inputs(layout)
    monkeypatch.setenv(dispatch.VARIABLE, name)
    assert_near("out", reference.tree_attention(*tensors, layout, 0.25), tree_attention(*tensors, layout), EXACT)
    assert said()[0] == f"tree_attention runs on {name}"


def test_what_is_forced_but_cannot_run_falls_back_and_warns(said, caplog, monkeypatch):
    layout = one_level(4, [3, 3])
    tensors, _ = inputs(layout)
    monkeypatch.setenv(dispatch.VARIABLE, "flex")
    tree_attention(*tensors, layout)
    assert said()[0].startswith("tree_attention runs on sdpa (flex: the tensors are on cpu")
    assert caplog.records[0].levelname == "WARNING"


def test_an_unknown_or_missing_backend_is_refused(said, monkeypatch):
    layout = one_level(4, [3, 3])
    tensors, _ = inputs(layout)
    monkeypatch.setenv(dispatch.VARIABLE, "tritn")
    with pytest.raises(ConfigError, match="'tritn'.*ref, sdpa, flex, triton, fa"):
        tree_attention(*tensors, layout)
    monkeypatch.setenv(dispatch.VARIABLE, "triton")
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="not installed"):
        tree_attention(*tensors, layout)
