"""Decode attention over shared prefixes beside its peers: a part of ``kernels_run.py``.

    gpu.cascade_vs_repeated    time of torch's fused attention over ours: 16 siblings with a prefix of 4k, short answers
    gpu.cascade_groups         the same for 16 groups of 16 with prompts and answers of 1,024 tokens

One layer with the heads of Qwen2.5-1.5B, one new token per sequence. Keys and values lie as in the embedded engine, one
row per sequence, so the peer reads every row whole; it is given the rows of one length without a mask, which is its
fastest form. Ours counts the merge and, as a side of its own, planning (once per step, for all layers). A layer takes
some ten microseconds, so all sides but that one are CUDA graphs, and the time is that of kernels and not of launches.

Shapes: S sequences, Q query heads, H KV heads, L columns, D head width
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from laconic.benchmarks.claim import Claim
from laconic.benchmarks.kernels_timing import Case, measure_case, ratios
from laconic.kernels.cascade_decode import DecodePlan, Segments, cascade_decode, plan_decode
from laconic.kernels.dispatch import distance

SOURCES = ["kernels/cascade_decode/*.py", "kernels/dispatch.py", "benchmarks/kernels_decode.py"]
HEADS, KV_HEADS, WIDTH = 12, 2, 128
SIZES = {
    "cuda": {"cascade_vs_repeated": (1, 16, 4096, 128), "cascade_groups": (16, 16, 1024, 1024)},
    "cpu": {"cascade_vs_repeated": (1, 4, 64, 8), "cascade_groups": (2, 4, 32, 16)},
}
"""Groups, siblings, tokens of the prefix, tokens of each answer."""
ALLOWED = {"cuda": 5e-3, "cpu": 1e-5}
"""Error of bfloat16 and of float32."""


def segments_of(groups: int, siblings: int, prefix: int, answer: int) -> Segments:
    """The prefix is read from the first sibling's row."""
    rows = [list(range(group * siblings, (group + 1) * siblings)) for group in range(groups)]
    shared = [([of[0]], 0, prefix, of) for of in rows]
    return Segments.of(shared + [([row], prefix, prefix + answer, [row]) for of in rows for row in of])


def decode_case(name: str, device: str) -> Case:
    groups, siblings, prefix, answer = SIZES[device][name]
    count, columns = groups * siblings, prefix + answer
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    q_SQD = draw(count, HEADS, WIDTH)
    k_SHLD, v_SHLD = draw(count, KV_HEADS, columns, WIDTH), draw(count, KV_HEADS, columns, WIDTH)
    for pool in (k_SHLD, v_SHLD):
        by_group = pool.view(groups, siblings, KV_HEADS, columns, WIDTH)
        by_group[:, 1:, :, :prefix] = by_group[:, :1, :, :prefix]
    pages = k_SHLD.transpose(1, 2), v_SHLD.transpose(1, 2)
    segments = segments_of(groups, siblings, prefix, answer)

    def plan() -> DecodePlan:
        return plan_decode(segments, count, columns, heads=HEADS, kv_heads=KV_HEADS, device=device)

    planned = plan()
    # The heads that share a KV head as that many queries: keys and values are read once and as they lie.
    grouped = q_SQD.view(count, KV_HEADS, HEADS // KV_HEADS, WIDTH)
    sides: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: cascade_decode(q_SQD, *pages, planned)[0],
        "ours, with planning": lambda: cascade_decode(q_SQD, *pages, plan())[0],
        "torch, heads as queries": lambda: scaled_dot_product_attention(grouped, k_SHLD, v_SHLD).view_as(q_SQD),
        "torch, enable_gqa": lambda: scaled_dot_product_attention(
            q_SQD[:, :, None], k_SHLD, v_SHLD, enable_gqa=True
        ).view_as(q_SQD),
    }
    scores = torch.einsum("shgd,shld->shgl", grouped.double(), k_SHLD.double()) * WIDTH**-0.5
    want = torch.einsum("shgl,shld->shgd", scores.softmax(-1), v_SHLD.double()).view(q_SQD.shape)
    errors: dict[str, tuple[float, float | None]] = {
        side: (distance([run()], [want]), ALLOWED[device]) for side, run in sides.items()
    }
    token = 2 * KV_HEADS * WIDTH * q_SQD.itemsize
    # FlashInfer pages its cache; a comparison over rows copied into pages would not be of the same work.
    absent = {"FlashInfer": "installed, but needs a cache of its own" if find_spec("flashinfer") else "not installed"}
    flops = 4.0 * HEADS * WIDTH * segments.seen
    graphs = [side for side in sides if "planning" not in side]  # a plan is made on the host
    return Case(name, sides, errors, flops, float(segments.read * token), absent, graphs)


def measure(device: str) -> tuple[list[Claim], dict[str, Any]]:
    """Claims, and every figure behind them."""
    claims, details = [], {}
    for name in SIZES[device]:
        details[name] = measure_case(decode_case(name, device))
        peers = [side for side in details[name]["sides"] if side.startswith("torch")]
        best = min(peers, key=lambda side: details[name]["sides"][side]["ms"])
        samples = list(ratios(details[name], "ours", best))
        claims.append(
            Claim(
                id=f"{'gpu' if device == 'cuda' else 'cpu'}.{name}",
                kind="finding",
                value=statistics.median(samples),
                spread=[min(samples), max(samples)],
                peer=f"{best}, torch {torch.__version__}",
                equal=True,
                sources=SOURCES,
                samples=samples,
            )  # fmt: skip
        )
    return claims, details
