"""A training step of a 1.5B model on packed trees beside trl's on rows: ``python benchmarks/packed_step_trl.py``.

16 prompts of 1,024 tokens with 16 answers of 1,024 each, a model of Qwen2.5-1.5B's shape with random weights, float32
weights under bfloat16 autocast, AdamW. Both sides are whole trainers that are handed the same rollouts, so a step is
everything but sampling and judging: ours packs, scores, takes the loss and its gradient, clips and steps; trl's
GRPOTrainer does the same on rows, with its chunked head. As many tokens go through the model at once on both sides.
Nothing is clipped by the ratio, so every answer's token has a gradient, and the learning rate changes nothing.

    gpu.packed_step_vs_trl       seconds of trl's step over ours
    gpu.packed_step_memory       our peak memory over trl's, each alone on the GPU
    gpu.packed_step_floor        time of our step's multiplications at the machine's bfloat16 peak over the step's time

First, loss and gradients of both are compared on a small slice of the same model: in float32, where a wrong mask shows
in attention's weights, and on a GPU also as they are timed. Results are written after each pair. On a CPU the model and
the rollouts are tiny and nothing is written: it shows that the benchmark runs, and there the sides agree to 1e-5.

Shapes: B rows, P tokens of a prompt, R tokens of an answer
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from laconic.benchmarks.claim import TRAINING_STEP, Claim, interleaved, write_claims
from laconic.benchmarks.gpu_bars import verdict
from laconic.benchmarks.kernels_run import versions
from laconic.benchmarks.kernels_timing import PEAK_FLOPS
from laconic.benchmarks.packed_step import Shape, answers, groups_of, row_work, rows_of
from laconic.benchmarks.packed_step_differences import differences
from laconic.eval.tasks import Problem
from laconic.kernels.dispatch import VARIABLE
from laconic.rewards.verdict import Judgement, Verdict
from laconic.rollout.records import Group
from laconic.train.experience import Experience
from laconic.train.packing.budget import to_tree_packs
from laconic.train.packing.choose import Price, Work, work_of_trees
from laconic.train.packing.trie import to_tries
from laconic.train.settings import Settings, load_settings
from laconic.train.trainer import LaconicTrainer
from laconic.train.updates import updates_of

SOURCES = [
    *TRAINING_STEP, "kernels/**/*.py", "train/objectives/clip.py", "benchmarks/packed_step_trl.py",
    "benchmarks/packed_step_differences.py",
]  # fmt: skip
CONFIG = Path(__file__).parents[1] / "configs/methods/grpo.yaml"
STEPS = 2
"""The first one compiles and fills the allocator; the second is measured."""
WIDE = 1e6
"""An upper clipping bound that no ratio reaches."""


@dataclass(frozen=True)
class Size:
    """A model and its rollouts."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    words: int
    groups: int
    siblings: int
    prompt: int
    answer: int
    trl_rows: int
    """Rows that trl takes at once."""
    slice: tuple[int, int, int, int]
    """Groups, siblings, prompt and answer on which results are compared."""
    allowed: dict[str, float]
    """The largest that each of the ``differences`` may be."""

    @property
    def small(self) -> Size:
        """The same model with the rollouts of the slice."""
        groups, siblings, prompt, answer = self.slice
        return replace(self, groups=groups, siblings=siblings, prompt=prompt, answer=answer, trl_rows=groups * siblings)

    @property
    def budget(self) -> int:
        """Tokens in one forward pass, the same on both sides."""
        return self.trl_rows * (self.prompt + self.answer)

    @property
    def shape(self) -> Shape:
        return Shape("one-level groups", answers(self.prompt, [self.answer] * self.siblings), self.groups)


ALLOWED = {
    "cuda": {"loss": 1e-4, "gradient": 1e-3, "attention": 1e-3, "loss, autocast": 5e-2, "gradient, autocast": 5e-2},
    "cpu": {"loss": 1e-5, "gradient": 1e-5, "attention": 1e-3},
}
SIZES = {
    "cuda": Size(1536, 28, 12, 2, 8960, 151_936, 16, 16, 1024, 1024, 8, (2, 4, 128, 128), ALLOWED["cuda"]),
    "cpu": Size(64, 2, 4, 2, 128, 256, 2, 4, 24, 16, 4, (2, 2, 12, 8), ALLOWED["cpu"]),
}
Write = Callable[[list[Claim], dict[str, Any]], object]


class NoEngine:
    """The rollouts are given; no policy has sampled them, so there is none to compare the trainer with."""

    policy_version = -1


class OurTrainer(LaconicTrainer):
    """Ours, with the rollouts of every generation given."""

    experience: Experience

    def _collect(self) -> Experience:
        return self.experience


class TheirTrainer(GRPOTrainer):
    """trl's, likewise."""

    rollouts: dict[str, Tensor]

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Tensor]:
        return dict(self.rollouts)


class Steps(TrainerCallback):
    """Seconds of each optimizer step, and the most memory that was allocated during it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.peak: list[int] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self.started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self.peak.append(torch.cuda.max_memory_allocated())
        self.seconds.append(time.perf_counter() - self.started)


def config_of(size: Size) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=size.words, hidden_size=size.hidden, num_hidden_layers=size.layers, num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads, intermediate_size=size.ffn, max_position_embeddings=4096,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip


def model_of(size: Size, device: str) -> PreTrainedModel:
    """Random weights, the same on every call."""
    torch.manual_seed(0)
    with torch.device(device):
        return Qwen2ForCausalLM._from_config(config_of(size), attn_implementation="sdpa", dtype=torch.float32)


def tokenizer_of(size: Size) -> PreTrainedTokenizerFast:
    """A word for each logit, because only words of the tokenizer are scored."""
    words = Tokenizer(WordLevel({f"w{index}": index for index in range(size.words)}, unk_token="w2"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w1", unk_token="w2")


def advantages_of(size: Size) -> np.ndarray:
    """Right and wrong in turns, as in ``rows_of``."""
    return np.where(np.arange(size.groups * size.siblings) % 2, -1.0, 1.0)


def settings_of(size: Size, name: str) -> Settings:
    """Our side's settings; trl's arguments below repeat them."""
    return load_settings(
        CONFIG,
        [
            f"name={name}", f"steps={STEPS}", f"rollout.prompts_per_step={size.groups}",
            f"rollout.group_size={size.siblings}", f"rollout.max_prompt={size.prompt}",
            f"rollout.max_completion={size.answer}", f"optim.micro_batch_tokens={size.budget}", "optim.packing=tree",
            "optim.lr=1.0e-9", "optim.max_grad_norm=1", "objective.normalizer=row_mean", "objective.epsilon_low=1",
            f"objective.epsilon_high={WIDE}", "truncation.name=none", "save.every=1000", "save.rollouts_every=0",
        ],
    )  # fmt: skip


def build_ours(size: Size, device: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> OurTrainer:
    groups = groups_of(size.shape, size.words)
    problems = [Problem(group.problem_id, "w3", "0", "random") for group in groups]
    trainer = OurTrainer(
        settings_of(size, folder.name), model_of(size, device), tokenizer, problems, _no_judge,
        lambda model: NoEngine(), folder,  # type: ignore[arg-type, return-value]
    )  # fmt: skip
    judged = tuple(Judgement(Verdict.RIGHT if one > 0 else Verdict.WRONG) for one in advantages_of(size))
    uncut = np.zeros(len(judged), dtype=bool)
    trainer.experience = Experience(tuple(groups), judged, uncut, advantage_N=advantages_of(size))
    return trainer


def build_trl(size: Size, device: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> TheirTrainer:
    rows, gpu = size.groups * size.siblings, device == "cuda"
    args = GRPOConfig(
        output_dir=str(folder), max_steps=STEPS, learning_rate=1e-9, lr_scheduler_type="constant", beta=0.0,
        per_device_train_batch_size=size.trl_rows, gradient_accumulation_steps=rows // size.trl_rows,
        num_generations=size.siblings, max_completion_length=size.answer, temperature=1.0, loss_type="grpo",
        epsilon=1.0, epsilon_high=WIDE, max_grad_norm=1.0, weight_decay=0.0, gradient_checkpointing=False,
        use_cpu=not gpu, bf16=gpu, report_to="none", save_strategy="no", disable_tqdm=True, logging_steps=1000,
    )  # fmt: skip
    data = Dataset.from_dict({"prompt": [f"w{index}" for index in range(3, 3 + size.groups)]})
    trainer = TheirTrainer(
        model=model_of(size, device), reward_funcs=_no_reward, args=args, train_dataset=data,
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.rollouts = trl_rows_of(groups_of(size.shape, size.words), advantages_of(size), device)
    return trainer


def trl_rows_of(groups: list[Group], advantage_B: np.ndarray, device: str) -> dict[str, Tensor]:
    """The rollouts as trl's trainer has them: (B, P) and (B, R), no padding because lengths are equal."""
    leaves = [(group, group.segments[leaf.segment]) for group in groups for leaf in group.leaves]
    prompt_BP = np.stack([group.segments[0].ids for group, _ in leaves]).astype(np.int64)
    answer_BR = np.stack([segment.ids for _, segment in leaves]).astype(np.int64)
    logp_BR = np.stack([segment.logp for _, segment in leaves])
    arrays = {
        "prompt_ids": prompt_BP, "prompt_mask": np.ones_like(prompt_BP), "completion_ids": answer_BR,
        "completion_mask": np.ones_like(answer_BR), "old_per_token_logps": logp_BR,
        "advantages": advantage_B.astype(np.float32),
    }  # fmt: skip
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def compare(size: Size, device: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> dict[str, float]:
    """What ``differences`` finds on the rollouts of ``size``."""
    ours = build_ours(size, device, tokenizer, folder / "ours")
    theirs = build_trl(size, device, tokenizer, folder / "trl")
    theirs.current_gradient_accumulation_steps = 1
    theirs.model.train()
    return differences(ours, updates_of(ours, ours.experience)[0], theirs, [theirs.rollouts], device)


def measured(build: Callable[[], LaconicTrainer | GRPOTrainer]) -> tuple[float, int]:
    """Seconds and peak bytes of the last of ``STEPS`` steps of a new trainer, which is gone afterwards."""
    trainer, steps = build(), Steps()
    trainer.add_callback(steps)
    trainer.train()
    path = getattr(trainer, "_generation_metrics", {}).get("pack/path", "tree")
    if path != "tree":
        raise SystemExit(f"our step went by {path}, not by trees, so there is nothing to compare")
    return steps.seconds[-1], steps.peak[-1] if steps.peak else 0


def clear() -> None:
    """Free what dropped trainers held in cycles, so that the next side has the GPU for itself."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def works_of(size: Size) -> dict[str, Work]:
    """What each side makes the model do."""
    rows = rows_of(size.shape, size.words)
    return {"ours": work_of_trees(to_tree_packs(to_tries(rows), size.budget)), "trl": row_work(rows, size.budget)}


def floor_seconds(work: Work, price: Price) -> float:
    """Forward and backward pass at the machine's bfloat16 peak, every pair of query and key at its plain price."""
    forward = (work.tokens + work.padding) * price.token + work.scored * price.scored + work.pairs * price.pair
    return 3 * forward / PEAK_FLOPS


def measure(
    device: str, pairs: int, size: Size | None = None, write: Write = lambda *_: None
) -> tuple[list[Claim], dict[str, Any]]:
    """Claims, and every figure behind them; ``write`` gets those of the pairs so far after each pair.

    Raises:
        SystemExit: loss or gradients of the sides differ, so that their times mean nothing.
    """
    size = size or SIZES[device]
    tokenizer, peaks = tokenizer_of(size), {"ours": 0, "trl": 0}
    seconds: dict[str, list[float]] = {"ours": [], "trl": []}
    with tempfile.TemporaryDirectory() as made:
        folder, count = Path(made), itertools.count()
        difference = compare(size.small, device, tokenizer, folder)
        print(f"difference on {size.slice}: {difference}, allowed {size.allowed}", flush=True)
        if not all(value <= size.allowed[name] for name, value in difference.items()):
            raise SystemExit(f"loss or gradients differ by {difference}, more than {size.allowed}")

        def side(name: str, build: Callable[..., LaconicTrainer | GRPOTrainer]) -> Callable[[], float]:
            """Each measurement trains anew: a trainer that has finished its run does not start another."""

            def run() -> float:
                clear()
                taken, peak = measured(lambda: build(size, device, tokenizer, folder / f"{name}-{next(count)}"))
                peaks[name] = max(peaks[name], peak)
                print(f"{name}: {taken:.3f} s, peak {peak / 2**30:.1f} GiB", flush=True)
                return taken

            return run

        sides = {"ours": side("ours", build_ours), "trl": side("trl", build_trl)}
        for pair in range(pairs):
            order = sides if pair % 2 == 0 else dict(reversed(sides.items()))
            for name, taken in interleaved(order, 1).items():
                seconds[name] += taken
            claims, details = figures(size, device, seconds, peaks)
            details["difference"] = difference
            write(claims, details)
    return claims, details


def figures(
    size: Size, device: str, seconds: dict[str, list[float]], peaks: dict[str, int]
) -> tuple[list[Claim], dict[str, Any]]:
    """What the steps' seconds and bytes say."""
    works, price = works_of(size), Price.of(config_of(size), device)
    floors = {name: floor_seconds(work, price) for name, work in works.items()}
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["trl"], strict=True)]
    shares = [floors["ours"] / one for one in seconds["ours"]]
    peer = "trl.GRPOTrainer on rows, chunked head, torch's fused attention"
    claims = [_claim("packed_step_vs_trl", ratios, peer), _claim("packed_step_floor", shares, None)]
    if peaks["trl"]:
        claims.append(_claim("packed_step_memory", [peaks["ours"] / peaks["trl"]], peer))
    details = {
        "seconds": seconds, "peak_bytes": peaks, "floor_seconds": floors, "versions": versions(),
        "tokens": {name: work.tokens for name, work in works.items()}, "tokens_at_once": size.budget,
        "pack_ratio": works["trl"].tokens / works["ours"].tokens, "size": vars(size),
    }  # fmt: skip
    return claims, details


def _claim(name: str, samples: list[float], peer: str | None) -> Claim:
    return Claim(
        id=f"gpu.{name}", kind="finding", value=statistics.median(samples), spread=[min(samples), max(samples)],
        peer=peer, equal=None if peer is None else True, sources=SOURCES, samples=samples,
    )  # fmt: skip


def _no_judge(items: Any) -> Any:
    raise AssertionError("the rollouts are judged")


def _no_reward(**_: Any) -> list[float]:
    raise AssertionError("the rollouts have their advantages")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--trl-rows", type=int, help="rows that trl takes at once; we take as many tokens; prints only")
    given = parser.parse_args()
    if (given.device == "cuda") != torch.cuda.is_available():
        parser.error(f"--device is {given.device}, but both sides would run on the other; hide or show the GPU")
    if given.pairs < 1:
        parser.error(f"--pairs is {given.pairs}, but a comparison needs at least 1")
    size = SIZES[given.device]
    if given.trl_rows:
        size = replace(size, trl_rows=given.trl_rows)
    if given.device == "cuda":
        # Else a kernel that fails its trial would be replaced, and its replacement timed.
        os.environ.setdefault(VARIABLE, "triton")

    def write(claims: list[Claim], details: dict[str, Any]) -> None:
        if given.device == "cuda" and not given.trl_rows:
            write_claims("packed_step_cuda", "python benchmarks/packed_step_trl.py --device cuda", claims, details)

    claims, details = measure(given.device, given.pairs, size, write)
    for name, seconds in details["seconds"].items():
        median, tokens = statistics.median(seconds), details["tokens"][name]
        share = details["floor_seconds"][name] / median
        print(f"{name:<5} {median:8.3f} s, {tokens:,} tokens, {share:.2f} of the floor")
    for claim in claims:
        bar = verdict(claim["id"], claim["value"]) if given.device == "cuda" else ""
        print(f"{claim['id']:<28} {claim['value']:10.4g}  {bar:<24} {claim['peer'] or ''}")


if __name__ == "__main__":
    main()
