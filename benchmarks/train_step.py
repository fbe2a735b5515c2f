"""Training steps per second of laconic against stock ``trl.GRPOTrainer``: ``python benchmarks/train_step.py``.

Same model (the tiny thinker), prompts, group size, cap, temperature, loss (``grpo``, one update per batch) and judge.
trl runs with the better of its two generation paths, ``generate`` and continuous batching. The learning rate is too
small to change the policy, so the work of a step stays the same throughout. Before anything is timed, loss and
gradients of both are compared on the same rollouts.

The claim: ``train.steps_per_s_vs_trl``, median over interleaved pairs of seconds per step of trl over ours. Both sides
take a GPU where there is one; ``--device cuda`` says so, and makes it a finding in ``results/train_step_cuda.json``.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from laconic.benchmarks.claim import EMBEDDED_ENGINE, TRAINING_STEP, interleaved, write_claims
from laconic.eval.tasks.load import load_problems
from laconic.rewards.pool import VerifierPool
from laconic.rewards.verdict import Item
from laconic.train.load_model import load_model
from laconic.train.run import engine_maker
from laconic.train.settings import load_settings
from laconic.train.trainer import LaconicTrainer
from laconic.train.updates import updates_of

SOURCES = [*TRAINING_STEP, "kernels/logprob_head.py", "train/objectives/clip.py", "rollout/scheduler.py"]
SOURCES += [*EMBEDDED_ENGINE, "rewards/pool.py"]
PROMPTS, GROUP, CAP, STEPS = 4, 16, 640, 2
CONFIG = Path(__file__).parents[1] / "configs/methods/grpo.yaml"


class StepTimes(TrainerCallback):
    """Seconds of every optimizer step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def settings(folder: str) -> Any:
    """Our side's settings; trl's arguments below repeat them."""
    return load_settings(
        CONFIG,
        [
            f"name={Path(folder).name}", f"steps={STEPS}", f"rollout.prompts_per_step={PROMPTS}",
            f"rollout.group_size={GROUP}", f"rollout.max_completion={CAP}", "optim.lr=1.0e-9", "save.every=1000",
            "objective.normalizer=row_mean", "credit.name=grpo", "truncation.name=none",
        ],
    )  # fmt: skip


def build_ours(pool: VerifierPool, folder: str) -> LaconicTrainer:
    chosen = settings(folder)
    model, tokenizer = load_model(chosen.model)
    problems = load_problems(chosen.task, "train")
    return LaconicTrainer(chosen, model, tokenizer, problems, pool.judge, engine_maker(chosen, tokenizer), Path(folder))


def build_trl(
    pool: VerifierPool, folder: str, continuous: bool, rows: int = PROMPTS * GROUP, accumulate: int = 1
) -> Any:
    chosen = settings(folder)
    model, tokenizer = load_model(chosen.model)
    problems = load_problems(chosen.task, "train")

    def right(prompts: list[str], completions: list[str], gold: list[str], **_: Any) -> list[float]:
        items = [Item(text, answer) for text, answer in zip(completions, gold, strict=True)]
        return [float(judgement.verdict.right) for judgement in pool.judge(items)]

    gpu = torch.cuda.is_available()
    args = GRPOConfig(
        output_dir=folder, max_steps=STEPS, learning_rate=1e-9, lr_scheduler_type="constant", beta=0.0,
        per_device_train_batch_size=rows // accumulate, gradient_accumulation_steps=accumulate, num_generations=GROUP,
        max_completion_length=CAP, temperature=1.0, loss_type="grpo", gradient_checkpointing=False, use_cpu=not gpu,
        bf16=gpu, report_to="none", save_strategy="no", disable_tqdm=True, logging_steps=1000,
        use_transformers_continuous_batching=continuous,
    )  # fmt: skip
    data = Dataset.from_dict({"prompt": [p.prompt for p in problems], "gold": [p.gold for p in problems]})
    return GRPOTrainer(model=model, reward_funcs=right, args=args, train_dataset=data, processing_class=tokenizer)


def timed(trainer: Any) -> float:
    """Median seconds of the steps of one ``train()`` call, the first one (warm-up) left out."""
    times = StepTimes()
    trainer.add_callback(times)
    trainer.train()
    trainer.remove_callback(times)
    return statistics.median(times.seconds[1:])


def largest_difference(ours: LaconicTrainer, theirs: Any) -> dict[str, float]:
    """Difference of the losses, and of the gradients relative to their norm, on one generation of ours."""
    # trl would score over the words that only pad the vocabulary as well, which are never sampled
    theirs.model.resize_token_embeddings(len(theirs.processing_class))
    ours.model.zero_grad()
    theirs.model.zero_grad()
    experience = ours._collect()
    loss_ours = 0.0
    for pack in updates_of(ours, experience)[0]:
        loss = ours._compute_loss(ours.model, pack)
        loss.backward()
        loss_ours += float(loss.detach())

    pad = theirs.processing_class.pad_token_id
    leaves = [(group, group.leaves[rollout.leaves[-1]]) for group in experience.groups for rollout in group.rollouts]
    prompts = [group.segments[0].ids for group, _ in leaves]
    responses = [group.response_ids(leaf) for group, leaf in leaves]
    inputs = {
        "prompt_ids": _padded(prompts, pad, left=True),
        "prompt_mask": _padded([p * 0 + 1 for p in prompts], 0, left=True),
        "completion_ids": _padded(responses, pad), "completion_mask": _padded([r * 0 + 1 for r in responses], 0),
        "advantages": torch.tensor(experience.advantage_N, dtype=torch.float32, device=theirs.accelerator.device),
        "num_items_in_batch": torch.tensor(float(sum(map(len, responses)))),
    }  # fmt: skip
    theirs.current_gradient_accumulation_steps = 1
    theirs.model.train()
    loss_theirs = theirs._compute_loss(theirs.model, inputs)
    loss_theirs.backward()
    pairs = list(zip(ours.model.parameters(), theirs.model.parameters(), strict=True))
    norm = torch.stack([b.grad.norm() for _, b in pairs]).norm()
    difference = torch.stack([(a.grad[: len(b.grad)] - b.grad).norm() for a, b in pairs]).norm() / norm
    return {"loss": abs(loss_ours - float(loss_theirs.detach())), "gradient": float(difference)}


def _padded(rows: list[np.ndarray], value: int, left: bool = False) -> torch.Tensor:
    width = max(map(len, rows))
    padding = [(width - len(row), 0) if left else (0, width - len(row)) for row in rows]
    padded = [np.pad(row, pad, constant_values=value) for row, pad in zip(rows, padding, strict=True)]
    return torch.tensor(np.stack(padded), device="cuda" if torch.cuda.is_available() else "cpu").long()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    on_gpu = given.device == "cuda"
    if on_gpu != torch.cuda.is_available():
        parser.error(f"--device is {given.device}, but both sides would run on the other; hide or show the GPU")
    with tempfile.TemporaryDirectory() as folder, VerifierPool(verifiers=["exact"]) as pool:
        count = itertools.count()

        def side(build: Callable[[str], Any], threads: int) -> Callable[[], float]:
            """Each measurement trains anew: a trainer that has finished its run does not start another."""

            def measure() -> float:
                torch.set_num_threads(threads)
                return timed(build(f"{folder}/run-{next(count)}"))

            return measure

        def ours(path: str) -> LaconicTrainer:
            return build_ours(pool, path)

        theirs = {
            "generate": lambda path: build_trl(pool, path, continuous=False),
            "continuous": lambda path: build_trl(pool, path, continuous=True),
        }
        difference = largest_difference(ours(f"{folder}/a"), theirs["generate"](f"{folder}/b"))
        print("difference on the same rollouts:", difference, flush=True)
        # Each side at its own best thread count, and trl with its better generation path, by one trial each.
        trials = {("generate", threads): side(theirs["generate"], threads)() for threads in (2, 1)}
        trials["continuous", 2] = side(theirs["continuous"], 2)()
        if trials["continuous", 2] < 2 * min(trials["generate", 1], trials["generate", 2]):
            # One thread is never twice as fast as two, so otherwise this path is out.
            trials["continuous", 1] = side(theirs["continuous"], 1)()
        print("trl:", trials, flush=True)
        peer = min(trials, key=trials.__getitem__)
        own = {threads: side(ours, threads)() for threads in (2, 1)}
        print("ours:", own, flush=True)
        threads = min(own, key=own.__getitem__)
        seconds = interleaved({"ours": side(ours, threads), "trl": side(theirs[peer[0]], peer[1])}, given.pairs)
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["trl"], strict=True)]
    write_claims(
        "train_step_cuda" if on_gpu else "train_step",
        "python benchmarks/train_step.py" + " --device cuda" * on_gpu,
        [
            {
                "id": "train.steps_per_s_vs_trl" + "_cuda" * on_gpu,
                "kind": "finding" if on_gpu else "floor",
                "value": statistics.median(ratios),
                "spread": [min(ratios), max(ratios)],
                "peer": f"trl.GRPOTrainer, {peer[0]} path, {peer[1]} threads",
                # under bfloat16 autocast the difference is reported, not held to a bound
                "equal": None if on_gpu else difference["loss"] < 1e-5 and difference["gradient"] < 1e-5,
                "sources": SOURCES,
                "samples": ratios,
            }
        ],
        {
            "seconds_per_step": seconds, "threads_ours": threads, "difference": difference,
            "trials": {f"{name}, {n} threads": value for (name, n), value in trials.items()},
            "shape": {"prompts": PROMPTS, "group_size": GROUP, "cap": CAP},
        },
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
