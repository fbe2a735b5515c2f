"""Two evaluations that were never run: responses written by rule, counted, priced and compared by the real code.

The base model re-checks itself about four times, the trained one hardly ever; both slip now and then, so that there are
right and wrong answers, easy and hard problems, and a few truncated responses.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from laconic.eval.hardware import load_hardware
from laconic.eval.model_spec import ModelSpec
from laconic.eval.paired import compare_runs
from laconic.eval.records import Sample, to_table, write_samples
from laconic.eval.run import EvalResult
from laconic.eval.summary import SCHEMA_VERSION, blocks, plain, write_json

CAP, SAMPLES_EACH, LEVELS = 640, 4, 8
TASKS = ("sums", "hops")
SPEC = ModelSpec(layers=3, hidden=96, q_heads=4, kv_heads=2, head_dim=24, ffn=256, vocab=22, tied=True)


@dataclass(frozen=True)
class Written:
    """Two evaluations and what was made of them."""

    base: EvalResult
    trained: EvalResult
    comparison: dict[str, Any]
    metrics: Path
    """A ``metrics.jsonl``."""


def write_evaluation(
    folder: Path, passes: Callable[[random.Random], int], slip: float, n: int, tasks: tuple[str, ...]
) -> EvalResult:
    """The files of an evaluation of ``n`` problems of each task."""
    samples = [
        _sample(folder.name, task, problem, index, passes, slip)
        for task in tasks
        for problem in range(n)
        for index in range(SAMPLES_EACH)
    ]
    table, hardware = to_table(samples), load_hardware("h100-sxm")
    settings = {"tasks": list(tasks), "n_problems": n * len(tasks), "k": SAMPLES_EACH}
    settings |= {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_completion": CAP, "seed": 0, "template": None}
    settings |= {"verifiers": ["exact"], "problems_hash": "0f", "engine": "TransformersEngine", "end_think": "</think>"}
    model = {"name": "tiny-thinker", "weights_hash": "5a" * 16, "dtype": "float32", "parameters": SPEC.parameters}
    summary = plain(
        {
            "schema_version": SCHEMA_VERSION,
            "run_id": folder.name,
            "model": model | {"parameters_active": SPEC.parameters, "spec": SPEC.as_dict()},
            "settings": settings,
            "key": "00",
            "hardware": hardware.as_dict(),
            "batches": (1, 64),
            "versions": {"python": "3.12.1", "laconic": "0.1.0", "torch": "2.13.0", "numpy": None},
            "seconds": {"generate": 12.5, "judge": 0.5},
            "cached": False,
            **blocks(table, SPEC, hardware, (1, 64)),
        }
    )
    folder.mkdir(parents=True)
    write_samples(table, folder / "samples.parquet")
    write_json(summary, folder / "summary.json")
    return EvalResult(summary, table, folder)


def write_metrics(path: Path, steps: int) -> Path:
    """A training run in which the length falls and the accuracy stays."""
    rng, lines = random.Random(0), []
    for step in range(1, steps + 1):
        done = 1 - np.exp(-4 * step / steps)
        right = 118 - 89 * done + rng.gauss(0, 3)
        line: dict[str, Any] = {"step": step, "outcome/accuracy": 0.9 + 0.03 * done + rng.gauss(0, 0.02)}
        line |= {"reward/mean": line["outcome/accuracy"] - 0.01, "length/mean": right + 2, "length/right": right}
        line |= {"length/wrong": right * 1.2 if step % 7 else None, "length/truncated": 0.012 * (1 - done)}
        line |= {"dot/cut": 0.2 * (1 - done) + 0.01, "policy/entropy": 0.12 - 0.05 * done + rng.gauss(0, 0.004)}
        line |= {"seconds/rollout": 2.2 - 1.4 * done, "seconds/judge": 0.05, "seconds/update": 1.3 - 0.8 * done}
        lines.append(json.dumps(line) + "\n")
    path.write_text("".join(lines) + '{"step": 1', encoding="utf-8")
    return path


def write_all(folder: Path, n: int, tasks: tuple[str, ...] = TASKS, steps: int = 100) -> Written:
    """Base, trained, their comparison and a training log, in ``folder``."""
    base = write_evaluation(
        folder / "base", lambda rng: min(max(round(rng.lognormvariate(np.log(4.2), 0.65)), 1), 20), 0.0039, n, tasks
    )
    trained = write_evaluation(folder / "trained", lambda rng: 1 + (rng.random() < 0.16), 0.0028, n, tasks)
    comparison = compare_runs(folder / "base", folder / "trained", draws=500)
    return Written(base, trained, comparison, write_metrics(folder / "metrics.jsonl", steps))


@pytest.fixture
def chat_tokenizer() -> Callable[..., Any]:
    """``make(chat template, special=False)``: a tokenizer with a token per character, and two for the think tags."""

    def make(template: str | None, *, special: bool = False) -> PreTrainedTokenizerFast:
        characters = {chr(code): index for index, code in enumerate((10, *range(32, 127)))}
        inner = Tokenizer(models.BPE(vocab=characters, merges=[]))
        inner.decoder = decoders.Fuse()
        made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", clean_up_tokenization_spaces=False)
        tags = ["<think>", "</think>"]
        made.add_tokens([AddedToken(tag, special=special, normalized=False) for tag in tags], special_tokens=special)
        made.chat_template = template
        return made

    return make


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Both tasks, small."""
    return write_all(tmp_path_factory.mktemp("evaluations"), n=48)


def _sample(
    run_id: str, task: str, problem: int, index: int, passes: Callable[[random.Random], int], slip: float
) -> Sample:
    level = 1 + problem % LEVELS
    prompt, gold = _pass(task, level, random.Random(f"{task}/{problem}"), random.Random(0), 0)
    rng = random.Random(f"{run_id}/{task}/{problem}/{index}")
    written = [_pass(task, level, random.Random(f"{task}/{problem}"), rng, slip * level)[1] for _ in range(passes(rng))]
    thought, answer, gold = ";".join(written), written[-1][-1], gold[-1]
    truncated = len(thought) + 4 > CAP
    text = f"<think>{thought[: CAP - 1]}" if truncated else f"<think>{thought}</think>{answer}"
    tokens = CAP if truncated else len(thought) + 4
    right = not truncated and answer == gold
    return Sample(
        run_id=run_id,
        benchmark=task,
        problem_id=f"{task}/test/0/{problem}",
        sample_idx=index,
        seed=0,
        level=level,
        prompt_token_ids=np.full(len(prompt), 5, np.int32),
        response_token_ids=np.full(tokens, 6 + zlib.crc32(text.encode()) % 10, np.int32),
        n_prompt=len(prompt),
        n_response=tokens,
        n_think=tokens if truncated else tokens - 2,
        n_answer=0 if truncated else 2,
        n_generated=tokens,
        finish_reason="length" if truncated else "eos",
        think_closed=not truncated,
        truncated=truncated,
        loop_flag=False,
        verdict="truncated" if truncated else "right" if right else "wrong",
        pred_raw=None if truncated else answer,
        gold=gold,
        correct=right,
        mean_logprob=-0.1,
        prompt_text=prompt,
        response_text=text,
    )


def _pass(task: str, level: int, problem: random.Random, rng: random.Random, slip: float) -> tuple[str, str]:
    """(prompt, one pass over its steps, which ends in the answer); each step goes wrong with probability ``slip``."""
    value, prompt, steps = problem.randrange(10), "", []
    prompt = str(value)
    for _ in range(level):
        operand = problem.randrange(10)
        result = (value + operand + (rng.random() < slip)) % 10
        steps.append(f"{value}+{operand}={result}" if task == "sums" else f"{value}>{result}")
        prompt += f"+{operand}"
        value = result
    return f"{prompt}=", ",".join(steps)
