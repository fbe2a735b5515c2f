"""Trees and budgets on vLLM, colocated, with what its prefix cache gave back.

    tree.leaves_per_s_vs_flat_vllm   finished answers per second of trees over those of flat sampling, both on vLLM

The workload, the drivers and the checks of equal results are those of ``rollout_trees.py`` and ``rollout_lengths.py``.
vLLM shares whole blocks of 32 tokens, so of a context of N tokens, all but the last computed before, it computes

    ((N - 1) mod 32) + 1

again. No segment that continues another one may cost more, and every context of four blocks or more must find some of
its tokens in the cache. Memory is ample, so that nothing is evicted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from laconic.benchmarks.claim import Claim
from laconic.benchmarks.rollout_lengths import anytime_driver, anytime_figures, anytime_prompts
from laconic.benchmarks.rollout_trees import LIVE, MODEL, PAIRS, PROBLEMS, SOURCES, Bench, against_flat, claim_of
from laconic.benchmarks.side_process import SideProcess
from laconic.rollout.engines.vllm_colocated import VllmEngine
from laconic.rollout.records import Group, Kind
from laconic.train.load_model import load_tokenizer
from laconic.train.model_files import resolve_model

BLOCK = 32
KV_BYTES = 2**31
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
"""Of the process vLLM runs in; one thread, as for the embedded engine's trees."""
OWN_SOURCES = [
    *(source for source in SOURCES if "/engines/" not in source),
    *(f"rollout/engines/vllm_{name}.py" for name in ("colocated", "heads", "request")),
    *(f"benchmarks/{name}.py" for name in ("rollout_on_vllm", "side_process")),
]


def claims(quick: bool, version: str) -> tuple[list[Claim], dict[str, Any]]:
    """The claim, and what explains it; ``version`` is vLLM's."""
    side = SideProcess(OnVllm, ENVIRONMENT)
    try:
        trees = side("trees", PROBLEMS // 16 if quick else PROBLEMS, 1 if quick else PAIRS)
        anytime = side("anytime", 2 if quick else 32)
    finally:
        side.close()
    peer = f"flat sampling of as many answers, on vLLM {version} as well, {LIVE} live sequences"
    claim = claim_of("tree.leaves_per_s_vs_flat_vllm", "floor", trees["speedup"], peer)
    return [{**claim, "sources": OWN_SOURCES}], {"trees": trees, "anytime": anytime}


class OnVllm:
    """The tiny thinker on the colocated engine; made in a process of its own."""

    def __init__(self) -> None:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        folder = resolve_model(MODEL)
        self.tokenizer = load_tokenizer(folder)
        self.engine = VllmEngine(
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
            [self.tokenizer.eos_token_id],
            max_live=LIVE,
            allowed_vocab=len(self.tokenizer),
            kv_bytes=KV_BYTES,
            block_size=BLOCK,
        )

    def trees(self, problems: int, pairs: int) -> dict[str, Any]:
        """Trees against flat sampling, with the re-prefill of all continued segments."""
        bench = Bench.load(problems)
        figures = against_flat(bench, self.engine, pairs, counts_prefill=False)
        return figures | reprefill(group for run in bench.runs["tree"] for group in run.groups)

    def anytime(self, prompts: int) -> dict[str, Any]:
        """The counts of ``anytime``, at most one block beside the inserted tokens for each summary."""
        driver, groups = anytime_driver(self.tokenizer), anytime_prompts(self.tokenizer, prompts)
        figures, done = anytime_figures(driver, self.engine, groups, block=BLOCK)
        return figures | reprefill(done)


def reprefill(groups: Iterable[Group]) -> dict[str, int]:
    """Segments that continue others, and the most tokens computed again for one.

    Raises ``AssertionError`` for one that cost more than the last block of what it continues, tokens inserted in
    between not counted, and for a context of four blocks or more of which nothing was found.
    """
    continued = long = most = 0
    for group in groups:
        for segment in group.segments:
            pieces = group.path(segment.id)[:-1]
            if segment.kind is not Kind.SAMPLED or not any(piece.kind is Kind.SAMPLED for piece, _ in pieces):
                continue
            inserted = 0
            while pieces[-1][0].kind is not Kind.SAMPLED:
                inserted += pieces.pop()[1]
            computed = sum(kept for _, kept in pieces)
            again, limit = segment.cost.prefilled - inserted, (computed - 1) % BLOCK + 1
            where = f"group {group.id}, segment {segment.id}: {computed} tokens computed before"
            assert again <= limit, f"{where}, {again} of them again; at most {limit} can be missing"
            if computed >= 4 * BLOCK:
                assert segment.cost.cached > 0, f"{where}, none found in the prefix cache"
                long += 1
            continued, most = continued + 1, max(most, again)
    assert long, f"no continued context has {4 * BLOCK} tokens, so nothing is known of the prefix cache"
    return {"continued_segments": continued, "of_four_blocks": long, "reprefill_tokens_most": most}
