"""A compiled kernel is tried against its slow twin before its first use, and left alone if it is off."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from random_trees import one_level

from laconic.errors import DataError
from laconic.kernels import dispatch, merge_lse, tree_attn
from laconic.kernels import fused_logprob as head
from laconic.kernels import pg_loss as loss
from laconic.kernels.pg_loss import LossSpec

SPECS = [
    LossSpec("clip", kl=0.3, entropy=0.1, ceiling=2.0, importance_cap=1.5),
    LossSpec("ratio", kl=0.1, kl_estimator="k1"),
    LossSpec("gppo", beta_low=0.5, ceiling=10.0),
    LossSpec("cispo", cap=1.2),
    LossSpec("sapo", kl=0.2, kl_estimator="k2"),
]


@pytest.fixture
def untried(monkeypatch):
    monkeypatch.setattr(dispatch, "_trials", {})
    monkeypatch.setattr(dispatch, "_said", set())
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)


def test_a_kernel_is_tried_once_and_trusted_within_its_bound(untried):
    asked = []
    for _ in range(2):
        assert dispatch.fails_its_trial("a", lambda: asked.append(1) or 0.01, 0.01) is None
    assert asked == [1]


def test_a_kernel_that_is_off_or_does_not_run_is_left_alone_and_named(untried, caplog):
    def broken() -> float:
        raise DataError("no compiler")

    caplog.set_level(logging.WARNING, "laconic.kernels.dispatch")
    assert "off by 2.0e-02" in (dispatch.fails_its_trial("b", lambda: 0.02, 0.01) or "")
    assert "off by nan" in (dispatch.fails_its_trial("c", lambda: float("nan"), 0.01) or "")
    assert dispatch.fails_its_trial("d", broken, 0.01) == "a trial ended in DataError: no compiler"
    assert len(caplog.records) == 3


def test_a_trial_without_memory_is_made_again(untried):
    def full() -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert "no memory" in (dispatch.fails_its_trial("f", full, 0.01) or "")
    assert dispatch.fails_its_trial("f", lambda: 0.0, 0.01) is None


def test_a_trial_in_inference_mode_has_gradients(untried):
    @torch.enable_grad()
    def error() -> float:
        x = torch.ones(2, requires_grad=True)
        return float(torch.autograd.grad((x * x).sum(), x)[0].sum()) - 4

    with torch.inference_mode():
        assert dispatch.fails_its_trial("g", error, 0.01) is None


def test_what_is_compiled_untried_is_never_taken_by_itself(untried, monkeypatch):
    """Where Triton's compiler doesn't work, FlexAttention would end in its error."""
    monkeypatch.setattr(dispatch, "_trials", {("tree_attention", "cpu", torch.float32, 16, 2): "no compiler"})
    monkeypatch.setattr(tree_attn, "_flex_refuses", lambda *_: pytest.fail("it was asked"))
    q, k = torch.randn(10, 2, 16), torch.randn(10, 1, 16)
    assert dispatch.choose("tree_attention", tree_attn.BACKENDS, q, k, k, one_level(4, [3, 3])).name == "sdpa"


def test_who_forces_triton_sees_what_it_does(untried, monkeypatch):
    monkeypatch.setenv(dispatch.VARIABLE, "triton")
    assert dispatch.fails_its_trial("e", lambda: 1.0, 0.01) is None and not dispatch._trials


def test_an_interpreter_that_cannot_run_says_why(untried, monkeypatch):
    on_gpu, on_cpu = (SimpleNamespace(device=torch.device(kind)) for kind in ("cuda", "cpu"))
    monkeypatch.setattr(dispatch, "find_spec", lambda name: name)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "LACONIC_KERNELS isn't triton" in dispatch.triton_refuses(on_cpu)
    monkeypatch.setenv(dispatch.VARIABLE, "triton")
    assert "the tensors are on a GPU" in dispatch.triton_refuses(on_gpu)
    assert dispatch.triton_refuses(on_cpu) is None


def test_attention_that_fails_its_trial_runs_elsewhere(untried, monkeypatch):
    monkeypatch.setattr(tree_attn, "triton_refuses", lambda *_: None)
    monkeypatch.setattr(tree_attn, "_load_triton", lambda: pytest.fail("it was trusted"))
    monkeypatch.setattr(dispatch, "_trials", {("tree_attention", "cpu", torch.float32, 8, 2): "off"})
    q, k = torch.randn(10, 2, 8), torch.randn(10, 1, 8)
    assert tree_attn.tree_attention(q, k, k, one_level(4, [3, 3])).shape == q.shape


def test_sound_kernels_pass_their_trials_and_others_fail(triton_device, monkeypatch):
    from laconic.kernels.tree_attn import fused, trial

    monkeypatch.setattr(trial, "TRIAL", one_level(20, [17, 30]))
    q, k = (torch.zeros(1, heads, 24, device=triton_device) for heads in (3, 1))
    assert trial.error(q, k) < 1e-5
    right = fused._dk_dv
    monkeypatch.setattr(fused, "_dk_dv", lambda *args: [x * 1.01 for x in right(*args)])
    assert 5e-3 < trial.error(q, k) < 2e-2


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.gain)
def test_the_loss_kernel_passes_its_trial(spec, triton_device):
    assert loss._error_of_triton(torch.device(triton_device), spec) < 1e-4


def test_a_loss_kernel_with_other_constants_fails_its_trial(triton_device, monkeypatch):
    right = loss._load_triton()
    wrong = LossSpec("clip", epsilon_high=0.25)
    monkeypatch.setattr(loss, "_load_triton", lambda: lambda *args: right(*args[:-1], wrong))
    assert loss._error_of_triton(torch.device(triton_device), LossSpec("clip")) > 1e-3


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.float16, 2e-3)])
def test_merging_passes_its_trial(dtype, most, triton_device):
    assert merge_lse._error_of_triton(torch.zeros(1, 24, dtype=dtype, device=triton_device)) < most


@pytest.mark.parametrize(("operand", "most"), [(torch.float32, 1e-3), (torch.float16, 1e-2)])
def test_the_head_passes_its_trial(operand, most, triton_device):
    assert head._error_of_triton(torch.device(triton_device), operand) < most


def test_the_head_is_tried_in_the_type_that_autocast_multiplies_in(untried, monkeypatch):
    monkeypatch.setattr(head, "triton_refuses", lambda *_: None)
    monkeypatch.setattr(head, "_error_of_triton", lambda device, operand: 0.0 if operand == torch.float32 else 1.0)
    hidden, weight = torch.randn(3, 4), torch.randn(5, 4)
    assert head._triton_refuses(hidden, weight) is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "off by 1.0e+00" in head._triton_refuses(hidden, weight)
