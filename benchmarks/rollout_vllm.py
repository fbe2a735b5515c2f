"""The embedded engine against vLLM on a CPU: ``python benchmarks/rollout_vllm.py [--quick]``.

    engine.tokens_per_s_vs_vllm_cpu   the embedded engine's tokens per second over vLLM's, at the worst of 8 to 256
                                      live sequences

Same random Qwen2 in float32, same prompts (16 answers to each), same long-tailed lengths, temperature 1, and a log-prob
for each token on both sides; twice as many answers as live sequences, all queued at once, so that continuous batching
has to work. The model has the tiny thinker's layers but heads 32 wide, the narrowest that vLLM's CPU attention knows:
the thinker's own, 24 wide, would be padded for vLLM, which then had to do more than we do.

Each side has a process to itself, so that neither's threads, binding, allocator or patched functions touch the other,
and they take turns. vLLM runs as ``LLM`` with the best of its ``settings`` at each size, we with the better of one and
two threads, found first. Before anything is timed, greedy answers of all are equal token for token, and log-probs equal
a teacher-forced forward's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from laconic.benchmarks import rollout_on_vllm
from laconic.benchmarks.claim import EMBEDDED_ENGINE, Claim, interleaved, median_and_spread, write_claims
from laconic.benchmarks.side_process import SideProcess
from laconic.rollout.engines.protocol import NoiseKey, Request, Sampling
from laconic.rollout.engines.transformers import TransformersEngine
from laconic.rollout.engines.vllm_version import require_vllm

SIZES = (8, 32, 64, 128, 256)
"""Live sequences."""
SAMPLES, PAIRS, VOCABULARY = 16, 5, 32
THREADS = (2, 1)
BLOCK = 32
"""Tokens of a KV block; vLLM's CPU attention asks for a multiple of 32, and its own choice is 128."""
TOLERANCE = 1e-3
"""Most that a log-prob may differ, in nats."""
SOURCES = [*EMBEDDED_ENGINE, "rollout/noise.py", "benchmarks/rollout_vllm.py", "benchmarks/side_process.py"]
VLLM = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
KV_BYTES = 2**29
"""vLLM's; 256 sequences of the longest kind need two thirds of it."""

Answers = list[tuple[list[int], list[float]]]
"""Token ids and log-probs, in order of asking."""


@dataclass(frozen=True)
class Work:
    """What is asked: an answer of exactly ``lengths[i]`` tokens to ``prompts[i]``."""

    prompts: Sequence[Sequence[int]]
    lengths: Sequence[int]
    live: int
    """Most sequences decoded at a time."""
    temperature: float = 1.0
    step: int = 0
    """Names the random numbers."""

    @property
    def tokens(self) -> int:
        """Tokens of all answers."""
        return sum(self.lengths)


@dataclass(frozen=True)
class Form:
    """A way to run a side."""

    name: str
    make: Callable[[], Any]
    environment: Mapping[str, str]
    """Of its process, from the start."""


def work(live: int, quick: bool = False) -> Work:
    """Prompts of 16 to 48 tokens; lengths lognormal, mean 160, most 640, as reasoning has them."""
    rng = np.random.default_rng(live)
    answers = live if quick else max(2 * live, 2 * SAMPLES)
    prompts = [rng.integers(2, VOCABULARY, rng.integers(16, 48)).tolist() for _ in range(-(-answers // SAMPLES))]
    lengths = np.clip(rng.lognormal(4.85, 0.7, answers), 8, 640) / (8 if quick else 1)
    return Work([prompts[i // SAMPLES] for i in range(answers)], lengths.astype(int).tolist(), live)


def forms(folder: str, quick: bool) -> list[Form]:
    """Ours by threads; vLLM eager or compiled, with GNU's OpenMP or with Intel's by threads, bound as vLLM binds it.

    Intel's library comes with vLLM, which asks to have it preloaded, and is the faster one.
    """
    threads = THREADS[1:] if quick else THREADS
    ours = [Form(f"embedded, {_threads(count)}", partial(Embedded, folder, count), _openmp(count)) for count in threads]
    kinds = {f"GNU OpenMP, {_threads(threads[0])}": _openmp(threads[0])}
    intel = Path(sys.prefix) / "lib" / "libiomp5.so"
    for count in THREADS if intel.is_file() and not quick else ():
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:count]))
        kinds[f"Intel OpenMP, {_threads(count)}, bound"] = _openmp(count) | {
            "LD_PRELOAD": str(intel),
            "KMP_AFFINITY": f"granularity=fine,explicit,proclist=[{cores}]",
            "KMP_BLOCKTIME": "5",
            "KMP_TPAUSE": "0",
        }
    theirs = [
        Form(f"vLLM, {'eager' if eager else 'compiled'}, {kind}", partial(Vllm, folder, eager), VLLM | environment)
        for kind, environment in kinds.items()
        for eager in ((True,) if quick else (True, False))
    ]
    return ours + theirs


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _openmp(threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads)}


class Embedded:
    """Our side."""

    def __init__(self, folder: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(self, asked: Work) -> Answers:
        """Every answer."""
        return self._run(self._requests(asked))

    def seconds(self, asked: Work) -> float:
        """How long the answers take."""
        requests = self._requests(asked)
        start = time.perf_counter()
        _check_lengths(asked, self._run(requests))
        return time.perf_counter() - start

    def _requests(self, asked: Work) -> tuple[int, list[Request]]:
        sampling = Sampling(temperature=asked.temperature)
        both = enumerate(zip(asked.prompts, asked.lengths, strict=True))
        return asked.live, [
            Request(i, np.asarray(prompt, np.int32), tokens, sampling, NoiseKey(0, asked.step, i, 0))
            for i, (prompt, tokens) in both
        ]

    def _run(self, given: tuple[int, list[Request]]) -> Answers:
        live, requests = given
        engine = TransformersEngine(self.model, [], max_live=live)
        engine.submit(requests)
        done = []
        while engine.busy:
            done += engine.step()
        return [(c.ids.tolist(), c.logp.tolist()) for c in sorted(done, key=lambda completion: completion.request)]


class Vllm:
    """vLLM's side: its own offline interface, with nothing of ours around it."""

    def __init__(self, folder: str, eager: bool) -> None:
        from vllm import LLM

        self.llm = LLM(
            folder,
            dtype="float32",
            max_model_len=1024,
            max_num_seqs=max(SIZES),
            max_num_batched_tokens=8192,
            block_size=BLOCK,
            kv_cache_memory_bytes=KV_BYTES,
            enable_prefix_caching=True,
            enforce_eager=eager,
            skip_tokenizer_init=True,
            logprobs_mode="processed_logprobs",
            generation_config="vllm",
            disable_log_stats=True,
        )

    def answer(self, asked: Work) -> Answers:
        """Every answer."""
        return self._run(*self._requests(asked))

    def seconds(self, asked: Work) -> float:
        """How long the answers take, without what earlier runs left in the prefix cache."""
        prompts, params = self._requests(asked)
        self.llm.reset_prefix_cache()
        start = time.perf_counter()
        _check_lengths(asked, self._run(prompts, params))
        return time.perf_counter() - start

    def _requests(self, asked: Work) -> tuple[list[Any], list[Any]]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        # the cap of one size; the engine was started for the largest
        self.llm.llm_engine.engine_core.engine_core.scheduler.max_num_active_reqs = asked.live
        # no seed: a generator for each request would slow its sampler down
        params = [
            SamplingParams(
                temperature=asked.temperature,
                max_tokens=tokens,
                ignore_eos=True,
                logprobs=0,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
                flat_logprobs=True,
            )
            for tokens in asked.lengths
        ]
        return [{"prompt_token_ids": list(prompt)} for prompt in asked.prompts], params

    def _run(self, prompts: list[Any], params: list[Any]) -> Answers:
        answers = [output.outputs[0] for output in self.llm.generate(prompts, params, use_tqdm=False)]
        return [(list(answer.token_ids), list(answer.logprobs.logprobs)) for answer in answers]


def _check_lengths(asked: Work, answers: Answers) -> None:
    found = [len(ids) for ids, _ in answers]
    assert found == list(asked.lengths), f"answers have {found[:5]}... tokens, asked were {asked.lengths[:5]}..."


def save_model(folder: str) -> Qwen2ForCausalLM:
    """A random model that both sides take as it is, peaked enough that greedy decoding has no ties."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=256,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=None,
    )
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.mul_(4)
    model.save_pretrained(folder)
    return model


def assert_same_results(model: Qwen2ForCausalLM, sides: Mapping[str, SideProcess], asked: Work) -> dict[str, float]:
    """Greedy answers equal token for token; log-probs of sampled ones equal to a teacher-forced forward's."""
    greedy = {name: side("answer", replace(asked, temperature=0.0)) for name, side in sides.items()}
    first, *_ = greedy
    for name, answers in greedy.items():
        same = [ids for ids, _ in answers] == [ids for ids, _ in greedy[first]]
        assert same, f"greedy answers of {name} differ from those of {first}"
    found = {"greedy_answers_equal": float(len(asked.lengths))}
    for name, side in sides.items():
        worst = 0.0
        for prompt, (ids, logp) in zip(asked.prompts, side("answer", asked), strict=True):
            with torch.no_grad():
                logits_TV = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
            want_T = logits_TV.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
            worst = max(worst, float((want_T - torch.tensor(logp)).abs().max()))
        assert worst <= TOLERANCE, f"a log-prob of {name} is off by {worst}, more than {TOLERANCE}"
        found[f"largest_logp_difference, {name}"] = worst
    return found


def rate(side: SideProcess, asked: Work, steps: list[int]) -> float:
    """Tokens per second; every call draws other answers."""
    steps[0] += 1
    return asked.tokens / float(side("seconds", replace(asked, step=steps[0])))


def claims(quick: bool) -> tuple[list[Claim], dict[str, Any]]:
    """All that needs vLLM: the claim here, and trees on vLLM. Raises ``ConfigError`` without the tested one."""
    version = require_vllm()
    engine, table = against_vllm(quick, version)
    trees, details = rollout_on_vllm.claims(quick, version)
    return engine + trees, {"engine_against_vllm": table, **details}


def against_vllm(quick: bool, version: str) -> tuple[list[Claim], dict[str, Any]]:
    """The claim and its table."""
    sizes, pairs = (SIZES[:2], 1) if quick else (SIZES, PAIRS)
    steps = [0]
    sides: dict[str, SideProcess] = {}
    with tempfile.TemporaryDirectory(prefix="laconic-vllm-") as folder:
        model = save_model(folder)
        try:
            for form in forms(folder, quick):
                sides[form.name] = SideProcess(form.make, form.environment)
            same = assert_same_results(model, sides, replace(work(32, quick=True), lengths=[64] * 32))
            rows = [measure(sides, work(live, quick), pairs, steps) for live in sizes]
        finally:
            for side in sides.values():
                side.close()
    worst = min(rows, key=lambda row: row["ratio"])
    claim: Claim = {
        "id": "engine.tokens_per_s_vs_vllm_cpu",
        "kind": "floor",
        "value": worst["ratio"],
        "spread": worst["spread"],
        "peer": worst["peer"].replace("vLLM", f"vLLM {version}") + f"; {worst['live']} live sequences, the worst size",
        "equal": True,
        "sources": SOURCES,
        "samples": worst["samples"],
    }
    model_shape = "random Qwen2, 3 layers, width 128, 4 heads x 32, 2 KV heads, vocabulary 32, float32"
    details = {"model": model_shape, "samples_per_prompt": SAMPLES, "block_size": BLOCK, "same_results": same}
    return [claim], {**details, "rows": rows}


def measure(sides: Mapping[str, SideProcess], asked: Work, pairs: int, steps: list[int]) -> dict[str, Any]:
    """One row of the table: every form once, after a warm-up; then the best of ours against the best of vLLM's."""
    short = replace(asked, lengths=[min(length, 32) for length in asked.lengths])
    sweep: dict[str, float] = {}
    for name, side in sides.items():
        rate(side, short, steps)
        sweep[name] = rate(side, asked, steps)
    best = {
        kind: max((name for name in sides if name.startswith(kind)), key=lambda name: sweep[name])
        for kind in ("embedded", "vLLM")
    }
    rates = interleaved({kind: partial(rate, sides[name], asked, steps) for kind, name in best.items()}, pairs)
    samples = [ours / theirs for ours, theirs in zip(rates["embedded"], rates["vLLM"], strict=True)]
    ratio, spread = median_and_spread(samples)
    row = {
        "live": asked.live,
        "ratio": ratio,
        "spread": spread,
        "embedded_tokens_per_s": median_and_spread(rates["embedded"])[0],
        "vllm_tokens_per_s": median_and_spread(rates["vLLM"])[0],
        "form": best["embedded"],
        "peer": best["vLLM"],
        "answers": len(asked.lengths),
        "tokens": asked.tokens,
        "longest": max(asked.lengths),
        "samples": samples,
        "sweep_tokens_per_s": sweep,
    }
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    """Measure and print; ``benchmarks/rollout.py`` writes the claim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small sizes, one pair, one form of each")
    parser.add_argument("--out", type=Path, help="folder for a result file of its own")
    given = parser.parse_args()
    found, details = claims(given.quick)
    print(json.dumps(found, indent=2))
    if given.out:
        write_claims("rollout_vllm", "python benchmarks/rollout_vllm.py", found, details, given.out)


if __name__ == "__main__":
    main()
