"""Make the tiny thinker from nothing: ``python -m laconic.train.thinker --out train/thinker/weights``.

A Qwen2 of about 0.3 M parameters, trained with plain next-token prediction on the corpus of ``corpus.py``. Examples
are bucketed by length: a batch holds a fixed number of tokens and almost no padding, several times faster here than
batches of mixed lengths. Everything is seeded; on the same machine and thread count the weights come out the same.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from ...atomic import temporary_beside
from ...eval.tasks import PROCEDURAL
from ...rewards.verifiers.answer_part import END_THINK
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
        Stage(3000, 4e-3, 2048, single_pass=True),
        Stage(3600, 2e-3, 6144),
        Stage(1800, 1.5e-3, 6144),
    )
    examples: int = 60_000
    """Examples of each stage, its own, half from each task; gone through as often as the steps need."""
    answer_weight: float = 0.1
    """Weight of the answers' own mean loss, which is added to the mean over all tokens: an answer is one token in about
    a hundred and would be learnt last."""
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
    config: ThinkerConfig, corpus: CorpusConfig, tokenizer: PreTrainedTokenizerFast, batch_tokens: int, seed: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Length-bucketed ``(ids_BT, labels_BT)``, int64; labels are -100 where no loss is wanted."""
    rng = random.Random(seed)
    encoded: list[tuple[list[int], int]] = []
    tasks = list(PROCEDURAL.values())
    streams = [task.problems("train", seed, config.examples) for task in tasks]
    for index in range(config.examples):
        task = tasks[index % len(tasks)]
        problem = next(streams[index % len(tasks)])
        example = write_example(task, problem, corpus, rng)
        prompt_ids = tokenizer(example.prompt)["input_ids"]
        ids = prompt_ids + tokenizer(example.response)["input_ids"]
        # After slips a search may miss its target and go through all ten digits, in every pass: rare, and left out.
        if len(ids) <= config.max_position:
            encoded.append((ids, len(prompt_ids) + example.trained_from))
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

    Every stage is saved to ``out/stage-<n>-<digest of its settings>`` and starts from the saved weights of the one
    before, so that a run that was stopped goes on with the stage it was in. The folders go when all is done.
    """
    tokenizer = build_tokenizer()
    model = build_model(config, tokenizer)
    single = replace(corpus, passes_median=1.0, passes_sigma=0.0, cut_share=0.0)
    saved_stages = []
    for number, stage in enumerate(config.stages, 1):
        so_far = repr((replace(config, stages=config.stages[:number]), corpus))
        saved = out / f"stage-{number}-{hashlib.sha256(so_far.encode()).hexdigest()[:8]}"
        if not saved.is_dir():
            chosen = single if stage.single_pass else corpus
            batches = make_batches(config, chosen, tokenizer, stage.batch_tokens, config.seed + number)
            order = _order(random.Random(f"{config.seed}/{number}"), len(batches), stage.steps)
            title = f"tiny thinker, stage {number} of {len(config.stages)}"
            _train_stage(model, stage, config, tqdm([batches[index] for index in order], unit="step", desc=title))
            unfinished = temporary_beside(saved)
            model.to(torch.bfloat16).save_pretrained(unfinished)
            unfinished.rename(saved)
        saved_stages.append(saved)
        model = Qwen2ForCausalLM.from_pretrained(saved, dtype=torch.float32)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    for saved in saved_stages:
        shutil.rmtree(saved)


def _train_stage(
    model: Qwen2ForCausalLM, stage: Stage, config: ThinkerConfig, batches: tqdm[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    """One AdamW step on each batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.peak, betas=(0.9, 0.98), weight_decay=0.01)
    end_think = build_tokenizer().convert_tokens_to_ids(END_THINK)
    average: float | None = None
    for step, (ids_BT, labels_BT) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = stage.peak * _schedule(step, stage.steps)
        logits_BTV = model(ids_BT).logits
        labels_BT = labels_BT[:, 1:]
        loss_BT = cross_entropy(logits_BTV[:, :-1].transpose(1, 2), labels_BT, ignore_index=-100, reduction="none")
        token_loss = loss_BT.sum() / (labels_BT != -100).sum()
        answer_loss = loss_BT[ids_BT[:, :-1] == end_think].mean()
        optimizer.zero_grad(set_to_none=True)
        (token_loss + config.answer_weight * answer_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average = token_loss.item() if average is None else 0.98 * average + 0.02 * token_loss.item()
        batches.set_postfix(loss=f"{average:.4f}", answer=f"{answer_loss.item():.4f}")


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
