"""Tree attention, forward plus backward, beside the peers a user would take: a part of ``kernels_run.py``.

Trees of depth 4 and 8 and one-level groups, 32k tokens each, with the heads of Qwen2.5-1.5B, bfloat16. What is made
of a pack's arrays (our layout with its checks and tile lists and their way to the device, FlexAttention's block
mask) is made anew in each run, though a model needs it once for all its layers; only the share of the floor is that
of the kernels alone, with tables kept. Each side's output and gradients are compared first: on a smaller tree of the
same shape with the slow twin in float64, on the full one with FlexAttention.

    gpu.tree_attn_vs_flex        FlexAttention's time, with ``create_block_mask``, over ours: the worse of the two trees
    gpu.tree_attn_memory         our peak memory over FlexAttention's, the worse of the two
    gpu.tree_attn_vs_parts       time by torch's fused attention in parts over ours, on one-level groups
    gpu.tree_attn_floor          time of the multiplications at the machine's bfloat16 peak over ours, the worst shape

On a CPU the sides are those that run there, on trees of 500 tokens, and nothing is claimed. ``--plans`` on a GPU times
other block sizes of the Triton kernels instead.

Shapes: N tokens, nq query heads, nkv key heads, d head size
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from laconic.benchmarks.claim import Claim
from laconic.benchmarks.kernels_timing import Case, measure_case, ratios
from laconic.kernels.dispatch import distance
from laconic.kernels.tree_attn import decomposed, flex, reference, sdpa
from laconic.kernels.tree_layout import TreeLayout

SOURCES = [
    "kernels/tree_layout.py", "kernels/tree_attn/*.py", "benchmarks/kernels_attn.py", "benchmarks/kernels_timing.py",
]  # fmt: skip
HEADS, KEY_HEADS, HEAD_SIZE = 12, 2, 128
ALLOWED = {"cuda": (5e-3, 1e-2), "cpu": (2e-6, 2e-6)}
"""Error of the output and of gradients, in bfloat16 and in float32."""
KEPT = "tables kept"
"""Ours with the tables of a layout that is not new."""
BACKWARD = 2.5
"""Multiplications of the backward pass over those of the forward: five products of matrices against two."""

Attention = Callable[[Tensor, Tensor, Tensor, TreeLayout, float], Tensor]
Errors = dict[str, tuple[float, float | None]]
"""As in ``Case``."""


@dataclass(frozen=True)
class Shape:
    """Parents and lengths of the nodes of a pack."""

    name: str
    parents: list[int]
    lengths: list[int]

    @cached_property
    def layout(self) -> TreeLayout:
        return TreeLayout.of_nodes(self.parents, self.lengths)

    def new_layout(self) -> TreeLayout:
        """From the arrays of a pack, with none of the tables of earlier runs."""
        return TreeLayout.of(self.layout.pos, self.layout.sub_end, self.layout.pred)

    def smaller(self, factor: int) -> Shape:
        lengths = [max(1, length // factor) for length in self.lengths]
        lengths[-1] += max(0, sum(self.lengths) // factor - sum(lengths))
        return Shape(self.name, self.parents, lengths)


def binary(depth: int, tokens: int) -> Shape:
    """A binary tree of ``depth`` levels with ``tokens`` tokens in all."""
    parents: list[int] = []
    stack = [(-1, 1)]
    while stack:
        parent, level = stack.pop()
        parents.append(parent)
        if level < depth:
            stack += [(len(parents) - 1, level + 1)] * 2
    each, more = divmod(tokens, len(parents))
    return Shape(f"tree of depth {depth}", parents, [each + (node < more) for node in range(len(parents))])


def one_level(groups: int, prompt: int, responses: int, length: int) -> Shape:
    parents, lengths = [], []
    for group in range(groups):
        root = group * (responses + 1)
        parents += [-1] + [root] * responses
        lengths += [prompt] + [length] * responses
    return Shape("one-level groups", parents, lengths)


# Of one number of tokens, because FlexAttention is compiled anew for each number.
SHAPES = [binary(4, 32_768), binary(8, 32_768), one_level(2, 1024, 16, 960)]


def by_triton(q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, scale: float) -> Tensor:
    from laconic.kernels.tree_attn import fused  # needs Triton

    return fused.attention(q, k, v, layout, scale)


@cache
def compiled_flex() -> tuple[Any, Any]:
    """For fixed shapes, which is its fastest form."""
    from torch._dynamo import config
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    config.recompile_limit = 64  # beyond it torch would run the next shape uncompiled, with all scores in memory
    return torch.compile(create_block_mask, dynamic=False), torch.compile(flex_attention, dynamic=False)


def by_stock_flex(q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, scale: float) -> Tensor:
    """FlexAttention as its documentation has it: the block mask is evaluated from the mask function, compiled."""
    make_mask, run = compiled_flex()
    sub_end = torch.from_numpy(layout.sub_end).to(q.device)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < sub_end[key])

    block_mask = make_mask(sees, None, None, len(layout), len(layout), device=q.device)
    heads_first = (x.transpose(0, 1)[None] for x in (q, k, v))
    out: Tensor = run(*heads_first, block_mask=block_mask, scale=scale, enable_gqa=True)
    return out[0].transpose(0, 1)


SIDES: dict[str, dict[str, Attention]] = {
    "cuda": {
        "triton": by_triton, "flex": by_stock_flex, "flex, our tile lists": flex.attention,
        "parts": decomposed.attention,
    },
    "cpu": {"units": sdpa.by_unit, "parts": decomposed.attention, "dense mask": sdpa.dense},
}  # fmt: skip


def inputs(tokens: int, device: str) -> list[Tensor]:
    """q, k, v and the gradient of the output: random, because zeros are multiplied faster."""
    generator = torch.Generator(device).manual_seed(tokens)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    shapes = [(tokens, heads, HEAD_SIZE) for heads in (HEADS, KEY_HEADS, KEY_HEADS, HEADS)]
    return [torch.randn(shape, generator=generator, device=device).to(dtype) for shape in shapes]


def results(attention: Attention, tensors: list[Tensor], layout: TreeLayout) -> list[Tensor]:
    """Output, dq, dk and dv."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors[:3]]
    out = attention(*leaves, layout, HEAD_SIZE**-0.5)
    return [out.detach(), *torch.autograd.grad(out, leaves, tensors[3])]


def compare(shape: Shape, device: str, tensors: list[Tensor]) -> tuple[Errors, dict[str, str]]:
    """Errors of all sides, and why those that don't run are absent."""
    small = shape.smaller(16 if device == "cuda" else 1).layout
    few = inputs(len(small), device)
    exact = results(reference.tree_attention, [tensor.double() for tensor in few], small)
    of_output, of_gradients = ALLOWED[device]
    ours, *_ = SIDES[device]
    errors: Errors = {}
    absent: dict[str, str] = {}
    for name, attention in SIDES[device].items():
        try:
            got = results(attention, few, small)
            errors[f"{name}: output"] = distance(got[:1], exact[:1]), of_output
            errors[f"{name}: gradients"] = distance(got[1:], exact[1:]), of_gradients
            if name == "flex":
                full = [results(SIDES[device][side], tensors, shape.layout) for side in (ours, name)]
                errors["triton against flex"] = distance(*full), of_gradients
        except Exception as problem:
            if name == ours:
                raise
            absent[name] = f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
    return errors, absent


def case_of(shape: Shape, device: str) -> Case:
    tensors = inputs(len(shape.layout), device)
    errors, absent = compare(shape, device, tensors)
    attentions = {name: attention for name, attention in SIDES[device].items() if name not in absent}
    ours, *_ = attentions

    def side(attention: Attention) -> Callable[[], Any]:
        if attention is by_stock_flex:  # it reads one array of the layout, so it doesn't pay for our checks
            return lambda: results(attention, tensors, shape.layout)
        return lambda: results(attention, tensors, shape.new_layout())

    flops = (1 + BACKWARD) * 4 * HEADS * HEAD_SIZE * shape.layout.pairs
    moved = sum(tensor.nbytes for tensor in tensors) * 3.0  # read twice, and output and gradients written
    sides = {name: side(attention) for name, attention in attentions.items()}
    sides[f"{ours}, {KEPT}"] = lambda: results(attentions[ours], tensors, shape.layout)
    return Case(f"{shape.name}, {device}", sides, errors, flops, moved, absent)


def measure(device: str = "cuda") -> tuple[list[Claim], dict[str, Any]]:
    """Claims, and every figure behind them; none of a peer that did not run."""
    shapes = SHAPES if device == "cuda" else [binary(3, 500), one_level(1, 100, 8, 50)]
    cases = [case_of(shape, device) for shape in shapes]
    details = {case.name: measure_case(case) for case in cases}
    if device != "cuda":
        return [], details
    *trees, flat = details.values()
    floor = min(of["floor_ms"] / of["sides"][f"triton, {KEPT}"]["ms"] for of in details.values())
    claims = [_claim("gpu.tree_attn_floor", None, value=floor)]
    flex_name, parts_name = (f"{name}, torch {torch.__version__}" for name in ("FlexAttention", "FlashAttention"))
    if all("flex" in of["sides"] for of in trees):
        slowest = min(trees, key=lambda of: statistics.median(ratios(of, "triton", "flex")))
        memory = max(of["sides"]["triton"]["peak_gib"] / of["sides"]["flex"]["peak_gib"] for of in trees)
        claims.append(_claim("gpu.tree_attn_vs_flex", flex_name, samples=list(ratios(slowest, "triton", "flex"))))
        claims.append(_claim("gpu.tree_attn_memory", flex_name, value=memory))
    if "parts" in flat["sides"]:
        samples = list(ratios(flat, "triton", "parts"))
        claims.append(_claim("gpu.tree_attn_vs_parts", f"{parts_name}, merged by us", samples=samples))
    return claims, details


def _claim(name: str, peer: str | None, *, value: float = 0.0, samples: list[float] | None = None) -> Claim:
    equal = None if peer is None else True
    if samples is None:
        return Claim(id=name, kind="finding", value=value, spread=None, peer=peer, equal=equal, sources=SOURCES)
    spread = [min(samples), max(samples)]
    median = statistics.median(samples)
    return Claim(
        id=name, kind="finding", value=median, spread=spread, peer=peer, equal=equal, sources=SOURCES, samples=samples
    )


def other_plans() -> None:
    """Milliseconds of the Triton kernels with other block sizes, one kernel changed at a time."""
    from dataclasses import replace

    from laconic.kernels.tree_attn import fused
    from laconic.kernels.tree_attn.fused import Blocks

    plan = fused.LARGE[HEAD_SIZE]
    changes = {
        "forward": [Blocks(128, 128, 8, 2), Blocks(128, 64, 4, 3), Blocks(128, 32, 4, 3), Blocks(64, 64, 4, 3)],
        "dq": [Blocks(64, 64, 4, 3), Blocks(128, 32, 8, 3), Blocks(128, 64, 8, 3), Blocks(128, 128, 8, 1)],
        "dkdv": [Blocks(64, 128, 8, 2), Blocks(64, 64, 8, 2), Blocks(64, 64, 4, 2), Blocks(32, 128, 4, 3)],
    }
    plans = [plan, *(replace(plan, **{kernel: blocks}) for kernel, list_ in changes.items() for blocks in list_)]
    for shape in SHAPES:
        tensors = inputs(len(shape.layout), "cuda")

        def run(chosen: Any, of: Shape = shape, tensors: list[Tensor] = tensors) -> list[Tensor]:
            attention = lambda q, k, v, layout, scale: fused.with_lse(q, k, v, layout, scale, chosen)[0]  # noqa: E731
            return results(attention, tensors, of.layout)

        want = run(plan)
        sides = {str(chosen): lambda chosen=chosen: run(chosen) for chosen in plans}
        errors = {name: (distance(side(), want), ALLOWED["cuda"][1]) for name, side in sides.items()}
        for name, figures in measure_case(Case(shape.name, sides, errors))["sides"].items():
            print(f"{shape.name:<20} {figures['ms']:8.3f} ms  {name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", action="store_true", required=True, help="time other block sizes")
    parser.parse_args()
    other_plans()
