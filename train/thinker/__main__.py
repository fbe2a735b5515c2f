"""Make the tiny thinker from nothing: ``python -m laconic.train.thinker --out train/thinker/weights``.

A Qwen2 of about 0.3 M parameters, trained with plain next-token prediction on the corpus of ``corpus.py``. Examples
are bucketed by length: a batch holds a fixed number of tokens and almost no padding, several times faster here than
batches of mixed lengths. Everything is seeded; on the same machine and thread count the weights come out the same.
"""

from __future__ import annotations

import argparse
import math
import random
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from ...eval.tasks import PROCEDURAL
from .corpus import CorpusConfig, write_example
from .tokenizer import build_tokenizer

# Shapes: B examples of a batch, T tokens of the longest, V vocabulary


@dataclass(frozen=True)
class Stage:
    """One stage of the training; its learning rate warms up over 100 steps and decays to 2 % on a cosine."""

    steps: int
    peak: float
    """Highest learning rate."""
    batch_tokens: int
    single_pass: bool = False
    """Thoughts of one pass only. In longer ones most tokens copy an earlier pass, and a model that learns to copy first
    is slow to learn to compute."""


@dataclass(frozen=True)
class ThinkerConfig:
    """Size of the model and length of its training."""

    hidden_size: int = 96
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    intermediate_size: int = 256
    max_position: int = 1024
    stages: tuple[Stage, ...] = (
        Stage(2600, 4e-3, 2048, single_pass=True),
        Stage(700, 2e-3, 6144),
        Stage(1000, 2e-3, 6144),
        Stage(1500, 2e-3, 6144),
        Stage(1200, 2e-3, 6144),
    )
    examples: int = 60_000
    """Distinct examples of each stage, half from each task; gone through as often as the steps need."""
    init_std: float = 0.08
    """Of the initial weights: transformers' 0.02 is meant for models ten times as wide."""
    seed: int = 17


def build_model(config: ThinkerConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A randomly initialised Qwen2 with tied embeddings; the vocabulary is padded to a multiple of 32."""
    torch.manual_seed(config.seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=32 * math.ceil(len(tokenizer) / 32),
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_position,
            tie_word_embeddings=True,
            initializer_range=config.init_std,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )


def make_batches(
    config: ThinkerConfig, corpus: CorpusConfig, tokenizer: PreTrainedTokenizerFast, batch_tokens: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Length-bucketed ``(ids_BT, labels_BT)``, int64; labels are -100 where no loss is wanted."""
    rng = random.Random(config.seed)
    encoded: list[tuple[list[int], int]] = []
    tasks = list(PROCEDURAL.values())
    streams = [task.problems("train", config.seed, config.examples) for task in tasks]
    for index in range(config.examples):
        task = tasks[index % len(tasks)]
        problem = next(streams[index % len(tasks)])
        example = write_example(task, problem, corpus, rng)
        prompt_ids = tokenizer(example.prompt)["input_ids"]
        ids = prompt_ids + tokenizer(example.response)["input_ids"]
        encoded.append((ids[: config.max_position], len(prompt_ids) + example.trained_from))
    encoded.sort(key=lambda pair: len(pair[0]))

    batches = []
    start = 0
    while start < len(encoded):
        stop = start
        while stop < len(encoded) and (stop + 1 - start) * len(encoded[stop][0]) <= batch_tokens:
            stop += 1
        rows = encoded[start:stop]
        width = len(rows[-1][0])
        ids_BT = torch.full((len(rows), width), tokenizer.pad_token_id)
        labels_BT = torch.full((len(rows), width), -100)
        for row, (ids, trained_from) in enumerate(rows):
            ids_BT[row, : len(ids)] = torch.tensor(ids)
            labels_BT[row, trained_from : len(ids)] = torch.tensor(ids[trained_from:])
        batches.append((ids_BT, labels_BT))
        start = stop
    return batches


def train_thinker(config: ThinkerConfig, corpus: CorpusConfig, out: Path) -> None:
    """Train and save model (bf16 safetensors) and tokenizer to ``out``.

    Every stage is saved to ``out/stage-<n>`` and starts from the saved weights of the one before, so that a run that
    was stopped goes on with the stage it was in.
    """
    tokenizer = build_tokenizer()
    model = build_model(config, tokenizer)
    single = replace(corpus, passes_median=1.0, passes_sigma=0.0, cut_share=0.0)
    for number, stage in enumerate(config.stages, 1):
        saved = out / f"stage-{number}"
        if not (saved / "model.safetensors").is_file():
            batches = make_batches(config, single if stage.single_pass else corpus, tokenizer, stage.batch_tokens)
            order = _order(random.Random(f"{config.seed}/{number}"), len(batches), stage.steps)
            _train_stage(model, stage, [batches[index] for index in order], f"stage {number} of {len(config.stages)}")
            model.to(torch.bfloat16).save_pretrained(saved)
        model = Qwen2ForCausalLM.from_pretrained(saved, dtype=torch.float32)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


def _train_stage(
    model: Qwen2ForCausalLM, stage: Stage, batches: list[tuple[torch.Tensor, torch.Tensor]], title: str
) -> None:
    """One AdamW step on each batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.peak, betas=(0.9, 0.98), weight_decay=0.01)
    average: float | None = None
    progress = tqdm(batches, unit="step", desc=f"tiny thinker, {title}")
    for step, (ids_BT, labels_BT) in enumerate(progress):
        for group in optimizer.param_groups:
            group["lr"] = stage.peak * _schedule(step, stage.steps)
        logits_BTV = model(ids_BT).logits
        loss = cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=-100)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
        progress.set_postfix(loss=f"{average:.4f}")


def _order(rng: random.Random, batches: int, steps: int) -> list[int]:
    """Which batch each step takes: permutations of all of them, one after another."""
    order: list[int] = []
    while len(order) < steps:
        order += reversed(rng.sample(range(batches), batches))
    return order[:steps]


def _schedule(step: int, total: int, warmup: int = 100) -> float:
    """Linear warm-up, then a cosine down to 2 %."""
    return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / total)))


def main(argv: list[str] | None = None) -> None:
    """Command line of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for model and tokenizer")
    parser.add_argument("--seed", type=int, default=ThinkerConfig.seed)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(2)
    train_thinker(ThinkerConfig(seed=arguments.seed), CorpusConfig(), arguments.out)


if __name__ == "__main__":
    main()
