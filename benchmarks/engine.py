"""Tokens per second of the embedded engine against transformers' own two: ``python benchmarks/engine.py``.

Same model, same prompts x 16 samples, temperature 1, cap 640, each side stopping at EOS; a token counts when it was
decoded up to and including EOS. The peers are ``model.generate`` at its best batch size of a small sweep and
``model.generate_batch`` (continuous batching) with its better configuration, both found on one thread; every side then
runs at its own best thread count of {1, 2}. Before anything is timed, greedy answers are compared with ``generate``
token for token and sampled log-probs with a teacher-forced forward.

The claim: ``engine.tokens_per_s_vs_generate``, median over interleaved pairs of our rate over the better peer's. With
``--device cuda`` it is a finding of its own, in ``results/engine_cuda.json``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from claim import EMBEDDED_ENGINE, interleaved, median_and_spread, write_claims
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from laconic.eval.tasks import PROCEDURAL
from laconic.rollout.engines.protocol import Completion, NoiseKey, Request, Sampling
from laconic.rollout.engines.transformers import TransformersEngine
from laconic.train.load_model import load_tokenizer
from laconic.train.model_files import resolve_model

# Shapes: P prompts, B sequences decoded together

CAP, SAMPLES = 640, 16
BATCHES = (16, 32, 64, 128)
SOURCES = [*EMBEDDED_ENGINE, "rollout/noise.py", "benchmarks/engine.py"]


@dataclass
class Bench:
    """The model and what it is asked."""

    model: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase
    prompts_P: list[list[int]]
    runs: int = 0

    def ours(self) -> float:
        """Tokens per second of the embedded engine; a new step number draws new answers."""
        self.runs += 1
        start = time.perf_counter()
        done = self.complete(Sampling(), SAMPLES, self.runs)
        seconds = time.perf_counter() - start
        self.lengths = [len(completion.ids) for completion in done]
        return sum(self.lengths) / seconds

    def complete(self, sampling: Sampling, samples: int, step: int) -> list[Completion]:
        """All prompts x ``samples`` through the embedded engine, in order of asking."""
        engine = TransformersEngine(self.model, [self.tokenizer.eos_token_id], allowed_vocab=len(self.tokenizer))
        engine.submit(
            [
                Request(p * samples + s, np.asarray(prompt, np.int32), CAP, sampling, NoiseKey(0, step, p, s))
                for p, prompt in enumerate(self.prompts_P)
                for s in range(samples)
            ]
        )
        done = []
        while engine.busy:
            done += engine.step()
        return sorted(done, key=lambda completion: completion.request)

    def generate(self, batch: int) -> float:
        """Tokens per second of ``model.generate`` with ``batch`` left-padded sequences at a time."""
        self.runs += 1
        torch.manual_seed(self.runs)
        rows = [prompt for prompt in self.prompts_P for _ in range(SAMPLES)]
        start, tokens = time.perf_counter(), 0
        for first in range(0, len(rows), batch):
            inputs = self.tokenizer.pad({"input_ids": rows[first : first + batch]}, return_tensors="pt")
            output_BT = self.model.generate(
                input_ids=inputs["input_ids"].to(self.model.device),
                attention_mask=inputs["attention_mask"].to(self.model.device),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=CAP,
            )[:, inputs["input_ids"].shape[1] :]
            tokens += int((output_BT != self.tokenizer.pad_token_id).sum())
        return tokens / (time.perf_counter() - start)

    def generate_batch(self, config: ContinuousBatchingConfig) -> float:
        """Tokens per second of transformers' continuous batching."""
        self.runs += 1
        torch.manual_seed(self.runs)
        generation = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=CAP,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        rows = [prompt for prompt in self.prompts_P for _ in range(SAMPLES)]
        start = time.perf_counter()
        answers = self.model.generate_batch(rows, generation_config=generation, continuous_batching_config=config)
        seconds = time.perf_counter() - start
        assert len(answers) == len(rows), f"generate_batch answered {len(answers)} of {len(rows)} requests"
        return sum(len(answer.generated_tokens) for answer in answers.values()) / seconds


def assert_same_results(bench: Bench) -> dict[str, float]:
    """Greedy answers equal ``generate``'s token for token; log-probs equal a teacher-forced forward to 1e-4."""
    for prompt, completion in zip(bench.prompts_P, bench.complete(Sampling(temperature=0.0), 1, 0), strict=True):
        ids = torch.tensor([prompt], device=bench.model.device)
        want = bench.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=CAP)
        assert completion.ids.tolist() == want[0, len(prompt) :].tolist(), "greedy answers differ from generate's"
    worst = 0.0
    done = bench.complete(Sampling(), SAMPLES, 0)
    for index, completion in enumerate(done):
        prompt = bench.prompts_P[index // SAMPLES]
        ids = torch.tensor([prompt + completion.ids.tolist()], device=bench.model.device)
        with torch.no_grad():
            logits_TV = bench.model(ids).logits[0, len(prompt) - 1 : -1, : len(bench.tokenizer)]
        want = logits_TV.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])[:, 0].cpu()
        worst = max(worst, float((want - torch.tensor(completion.logp)).abs().max()))
    assert worst <= 1e-4, f"a log-prob is off by {worst}, more than 1e-4"
    return {"greedy_answers_equal": len(bench.prompts_P), "largest_logp_difference": worst}


def at_threads(threads: int, measure: Callable[[], float]) -> Callable[[], float]:
    """``measure`` under a fixed number of threads."""

    def run() -> float:
        torch.set_num_threads(threads)
        return measure()

    return run


def best(trials: dict[str, Callable[[], float]]) -> tuple[str, dict[str, float]]:
    """Name of the fastest, and all rates."""
    rates = {name: round(measure(), 1) for name, measure in trials.items()}
    for name, rate in rates.items():
        print(f"{name:40s} {rate:10,.0f} tokens/s", flush=True)
    return max(rates, key=lambda name: rates[name]), rates


def best_of_two(one: float, label: str, measure: Callable[[], float]) -> tuple[int, dict[str, float]]:
    """The better thread count, given the rate on one, and the rate on two under ``label``."""
    _, rates = best({label: measure})
    return (2 if rates[label] > one else 1), rates


def main() -> None:
    """Check, sweep, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="interleaved pairs (default %(default)s)")
    parser.add_argument("--prompts", type=int, default=8, help="prompts, 16 samples each (default %(default)s)")
    parser.add_argument("--model", default="tiny-thinker", help="packaged name or folder (default %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dry", action="store_true", help="print, write no claim")
    given = parser.parse_args()

    folder = resolve_model(given.model)
    tokenizer = load_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(given.device)
    share = given.prompts // len(PROCEDURAL)
    problems = [problem for task in PROCEDURAL.values() for problem in task.problems("test", 0, share)]
    bench = Bench(model, tokenizer, [tokenizer(problem.prompt)["input_ids"] for problem in problems])
    same = assert_same_results(bench)
    print(same)

    # Its defaults are made for a GPU's memory: on a CPU the oversized cache costs a factor of ten, so sizes are given
    sequences = given.prompts * SAMPLES
    configs = {
        f"{blocks} blocks": ContinuousBatchingConfig(num_blocks=blocks, max_batch_tokens=2 * sequences)
        for blocks in (sequences, 3 * sequences)
    }
    forms: dict[str, dict[str, Callable[[], float]]] = {
        "ours": {"all at once": bench.ours},
        "generate": {f"batch {batch}": (lambda batch=batch: bench.generate(batch)) for batch in BATCHES},
        "generate_batch": {
            label: (lambda config=config: bench.generate_batch(config)) for label, config in configs.items()
        },
    }
    chosen: dict[str, tuple[str, Callable[[], float]]] = {}
    sweep: dict[str, dict[str, float]] = {}
    for side, trials in forms.items():
        print(side)
        form, rates = best({label: at_threads(1, measure) for label, measure in trials.items()})
        two = at_threads(2, trials[form])
        threads, more = (1, {}) if given.device == "cuda" else best_of_two(rates[form], f"{form}, 2 threads", two)
        sweep[side] = rates | more
        chosen[side] = (f"{form}, {threads} threads", at_threads(threads, trials[form]))
    peer = max(("generate", "generate_batch"), key=lambda side: max(sweep[side].values()))
    names = {side: f"{side}, {chosen[side][0]}" for side in ("ours", peer)}
    rates = interleaved({names[side]: chosen[side][1] for side in ("ours", peer)}, given.pairs)
    ratios = [a / b for a, b in zip(rates[names["ours"]], rates[names[peer]], strict=True)]
    value, spread = median_and_spread(ratios)
    print(f"ours / {peer}: median {value:.2f}, from {spread[0]:.2f} to {spread[1]:.2f}; {rates}")
    if given.dry:
        return
    on_gpu = given.device == "cuda"
    write_claims(
        "engine_cuda" if on_gpu else "engine",
        "python benchmarks/engine.py" + " --device cuda" * on_gpu,
        [
            {
                "id": "engine.tokens_per_s_vs_generate" + "_cuda" * on_gpu,
                "kind": "finding" if on_gpu else "floor",
                "value": value,
                "spread": spread,
                "peer": f"transformers {transformers.__version__}, {names[peer]}",
                "equal": True,
                "sources": SOURCES,
                "samples": ratios,
            }
        ],
        {
            "prompts": given.prompts,
            "samples_per_prompt": SAMPLES,
            "cap": CAP,
            "mean_length": float(np.mean(bench.lengths)),
            "longest": max(bench.lengths),
            "same_results": same,
            "tokens_per_s": rates,
            "sweep_tokens_per_s": sweep,
        },
    )


if __name__ == "__main__":
    main()
