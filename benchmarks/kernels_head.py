"""The fused head and the policy loss beside their peers: a part of ``kernels_run.py``.

    gpu.head_vs_trl           time of trl's chunked head over ours, forward and backward, 16,384 tokens of a 1.5B model
    gpu.head_forward_vs_trl   the same without the backward pass
    gpu.head_logp_error       our largest log-prob error against float64 on the same operands in bfloat16

Shapes: M tokens, H hidden size, V vocabulary
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from laconic.benchmarks.claim import Claim
from laconic.benchmarks.kernels_timing import Case, measure_case, ratios
from laconic.kernels.dispatch import distance
from laconic.kernels.fused_logprob import fused_logprob
from laconic.kernels.fused_logprob.reference import fused_logprob_reference
from laconic.kernels.pg_loss import LossSpec, pg_loss
from laconic.kernels.pg_loss.reference import pg_loss_reference

SOURCES = ["kernels/fused_logprob/*.py", "kernels/dispatch.py", "benchmarks/kernels_head.py"]
SIZES = {"cuda": (16_384, 1536, 151_936), "cpu": (256, 64, 2048)}
TOKENS = {"cuda": 2_100_000, "cpu": 10_000}
CHECKED = 256
"""Tokens whose log-probs and gradients are compared with float64."""
ALLOWED = {"cuda": 1e-2, "cpu": 1e-5}
"""Error of gradients in bfloat16 and in float32."""

Head = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def trl_head(hidden_MH: Tensor, weight_VH: Tensor, targets_M: Tensor) -> tuple[Tensor, Tensor]:
    """As ``trl.trainer.utils.add_fused_lm_head`` calls it."""
    from trl.kernels import ChunkedLogProbFunction

    tile = min(32_768, len(weight_VH))
    result: Any = ChunkedLogProbFunction.apply(
        hidden_MH, weight_VH, None, targets_M, 1.0, tile, None, 1.0, ("entropy",)
    )
    return result[0], result[1]


def operands(device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Random, because zeros are multiplied faster; the largest logits lie between 20 and 30, as those of a model."""
    tokens, width, words = SIZES[device]
    generator = torch.Generator(device).manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    hidden_MH = torch.randn((tokens, width), generator=generator, device=device).to(dtype)
    weight_VH = (5 * width**-0.5 * torch.randn((words, width), generator=generator, device=device)).to(dtype)
    return hidden_MH, weight_VH, torch.randint(words, (tokens,), generator=generator, device=device)


def head_case(device: str, backward: bool) -> Case:
    hidden_MH, weight_VH, targets_M = operands(device)
    heads: dict[str, Head] = {"ours": fused_logprob}
    absent = {}
    # Its backward pass imports its trainer, which needs datasets.
    if missing := [package for package in ("trl", "datasets") if find_spec(package) is None]:
        absent["trl"] = f"{' and '.join(missing)} not installed"
    else:
        heads["trl"] = trl_head
    want = _exact_head(hidden_MH[:CHECKED], weight_VH, targets_M[:CHECKED])[0]
    errors: dict[str, tuple[float, float | None]] = {}
    for name, head in heads.items():
        got = head(hidden_MH[:CHECKED], weight_VH, targets_M[:CHECKED])[0]
        errors[f"{name}: log-prob"] = float((got.double() - want).abs().max()), 1e-3 if name == "ours" else None
    if backward:
        ours = _gradients(fused_logprob, hidden_MH[:CHECKED], weight_VH, targets_M[:CHECKED])
        # Leaves in float64 too, else the gradients would be rounded to the type of the operands.
        exact = _gradients(_exact_head, hidden_MH[:CHECKED].double(), weight_VH.double(), targets_M[:CHECKED])
        for name, a, b in zip(("hidden", "weight"), ours, exact, strict=True):
            errors[f"gradient of {name}"] = distance([a], [b]), ALLOWED[device]
    if backward and "trl" in heads:
        ours, theirs = (_gradients(head, hidden_MH, weight_VH, targets_M) for head in heads.values())
        for name, a, b in zip(("hidden", "weight"), ours, theirs, strict=True):
            errors[f"gradient of {name}, against trl"] = distance([a], [b]), 2e-2

    def side(head: Head) -> Callable[[], Any]:
        if backward:
            return lambda: _gradients(head, hidden_MH, weight_VH, targets_M)
        return torch.no_grad()(lambda: head(hidden_MH, weight_VH, targets_M))

    tokens, width, words = SIZES[device]
    flops = 2.0 * tokens * width * words * (4 if backward else 1)
    moved = (tokens + words) * width * hidden_MH.itemsize * (3 if backward else 1)
    sides = {name: side(head) for name, head in heads.items()}
    return Case("head, both passes" if backward else "head, forward", sides, errors, flops, moved, absent)


def _exact_head(hidden_MH: Tensor, weight_VH: Tensor, targets_M: Tensor) -> tuple[Tensor, Tensor]:
    """In float64, on the same operands."""
    return fused_logprob_reference(hidden_MH.double(), weight_VH.double(), targets_M, None, 1.0, 1.0, None)


def _gradients(head: Head, hidden_MH: Tensor, weight_VH: Tensor, targets_M: Tensor) -> tuple[Tensor, ...]:
    leaves = [hidden_MH.detach().requires_grad_(), weight_VH.detach().requires_grad_()]
    return torch.autograd.grad(head(*leaves, targets_M)[0].sum(), leaves)


def loss_case(device: str) -> Case:
    """GRPO with KL and entropy; the peer is our own twin, eager."""
    tokens = TOKENS[device]
    generator = torch.Generator(device).manual_seed(0)
    given = [torch.randn(tokens, generator=generator, device=device) for _ in range(10)]
    logp_M, entropy_M = (-given[0].abs()).requires_grad_(), given[1].abs().requires_grad_()
    old_M, ref_M, engine_M = (logp_M.detach() + 0.2 * x for x in given[2:5])
    # On a bound of the clipping the gradient jumps: one token rounded to its other side would look like an error.
    on_bound_M = (((logp_M.detach() - old_M).exp() - 1).abs() - 0.2).abs() < 1e-5
    old_M = torch.where(on_bound_M, old_M + 1e-3, old_M)
    weights = [given[5].clamp(min=0), given[6].clamp(max=0), *(x.abs() for x in given[7:])]
    names = ("w_pos_M", "w_neg_M", "w_kl_M", "w_ent_M", "w_nll_M")
    spec = LossSpec("clip", kl=0.01, entropy=0.001)

    def ours() -> tuple[Tensor, ...]:
        loss, _ = pg_loss(
            logp_M, entropy_M, old_M, ref_M, spec=spec, engine_logp_M=engine_M, **dict(zip(names, weights, strict=True))
        )
        return loss.detach(), *torch.autograd.grad(loss, (logp_M, entropy_M))

    def twin() -> tuple[Tensor, ...]:
        loss, _ = pg_loss_reference(logp_M, entropy_M, old_M, ref_M, engine_M, *weights, spec)
        return loss.detach(), *torch.autograd.grad(loss, (logp_M, entropy_M))

    pairs = zip(("loss", "by log-prob", "by entropy"), ours(), twin(), strict=True)
    errors: dict[str, tuple[float, float | None]] = {
        name: (float((a - b).double().norm() / b.double().norm()), 1e-4) for name, a, b in pairs
    }
    return Case("policy loss", {"ours": ours, "our twin": twin}, errors, bytes=44.0 * tokens)


def measure(device: str) -> tuple[list[Claim], dict[str, Any]]:
    """Claims, and every figure behind them."""
    cases = [head_case(device, False), head_case(device, True), loss_case(device)]
    details = {case.name: measure_case(case) for case in cases}
    prefix = "gpu" if device == "cuda" else "cpu"
    error = details["head, forward"]["errors"]["ours: log-prob"]
    claims = [_claim(f"{prefix}.head_logp_error", [error], None)]
    for case, name in (("head, forward", "head_forward_vs_trl"), ("head, both passes", "head_vs_trl")):
        if "trl" in details[case]["sides"]:
            claims.append(_claim(f"{prefix}.{name}", list(ratios(details[case], "ours", "trl")), "trl's chunked head"))
    return claims, details


def _claim(name: str, samples: list[float], peer: str | None) -> Claim:
    return Claim(
        id=name, kind="finding", value=statistics.median(samples), spread=[min(samples), max(samples)], peer=peer,
        equal=None if peer is None else True, sources=SOURCES, samples=samples,
    )  # fmt: skip
