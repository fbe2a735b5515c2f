"""Two training steps and an evaluation on real problems, with a model of a real shape and random weights.

Qwen2.5-0.5B cut to 2 of its 24 layers, with its vocabulary of 151,936 words, of which a tokenizer trained here on the
problems knows a thousand. It can solve nothing, and that is what the evaluation must say; what it costs to run is the
same as with weights that can.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from laconic.train.metrics_log import read_metrics

LAYERS, HIDDEN, FFN, HEADS, KV_HEADS, HEAD, VOCABULARY = 2, 896, 4864, 14, 2, 64, 151_936
MATRICES = LAYERS * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * KV_HEADS * HEAD + 3 * HIDDEN * FFN)
"""Entries of the matrices that every token passes: q and o, k and v, the three of the MLP."""
NORMS_AND_BIASES = (2 * LAYERS + 1) * HIDDEN + LAYERS * (HIDDEN + 2 * KV_HEADS * HEAD)
PARAMETERS = VOCABULARY * HIDDEN + MATRICES + NORMS_AND_BIASES
"""Embeddings are tied to the head."""
WORDS = 1000
CAP = 24
CONFIG = """
model: model
name: gsm8k
steps: 2
task:
  file: {data}/gsm8k_train.jsonl
  columns: {{prompt: problem, gold: answer}}
  template: "Question: {{prompt}}\\nAnswer:"
  verifier: number
rollout: {{prompts_per_step: 2, group_size: 4, max_prompt: 768, max_completion: {cap}}}
# Nothing is right, so only the entropy bonus has a gradient.
objective: {{name: clip, entropy: 0.01}}
optim: {{lr: 1.0e-4, micro_batch_tokens: 2048}}
"""


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    output: str
    errors: str
    peak_gb: float


def laconic(folder: Path, *arguments: str) -> Ran:
    """Run the command line in ``folder``; it must succeed."""
    output, errors = folder / "output.txt", folder / "errors.txt"
    with output.open("w") as out, errors.open("w") as err:
        process = subprocess.Popen([sys.executable, "-m", "laconic", *arguments], cwd=folder, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, errors.read_text()
    return Ran(output.read_text(), errors.read_text(), usage.ru_maxrss / 2**20)


def make_model(folder: Path, texts: list[str]) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    end = "<|endoftext|>"
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=WORDS, special_tokens=[end], initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=end, pad_token=end)
    assert len(tokenizer) == WORDS
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=32_768,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, dtype=torch.bfloat16,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def trained(data_dir: Path) -> Iterator[tuple[Path, Ran]]:
    """The working folder after training, and what training said. Three GB that must not stay behind."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [json.loads(line) for line in (data_dir / "gsm8k_train.jsonl").read_text().splitlines()]
        make_model(folder / "model", [row["problem"] for row in rows])
        (folder / "gsm8k.yaml").write_text(CONFIG.format(data=data_dir.resolve(), cap=CAP))
        yield folder, laconic(folder, "train", "gsm8k.yaml", "--json")


@pytest.fixture(scope="module")
def summary(trained: tuple[Path, Ran], data_dir: Path) -> dict[str, Any]:
    """What the evaluation of the trained model says."""
    folder, _ = trained
    test = str(data_dir.resolve() / "gsm8k_test.jsonl")
    ran = laconic(
        folder, "eval", "runs/gsm8k", "--task", test, "-n", "6", "-k", "2", "--max-completion", str(CAP), "--json"
    )
    assert ran.peak_gb < 4
    loaded: dict[str, Any] = json.loads(ran.output)
    return loaded


def test_two_steps_move_the_weights_within_four_gigabytes(trained: tuple[Path, Ran]) -> None:
    folder, ran = trained
    assert json.loads(ran.output)["started"] is True
    assert ran.peak_gb < 4
    lines = read_metrics(folder / "runs" / "gsm8k" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert 0 <= line["outcome/accuracy"] <= 0.5 and line["outcome/verifier_failed"] == 0
        assert line["length/max"] <= CAP and line["tokens/decoded"] <= 8 * CAP
        assert line["grad_norm"] > 0
        # A random model spreads its mass over the words that the tokenizer knows, and on no other.
        assert 6.5 < line["policy/entropy"] < 6.91
        assert abs(line["policy/ratio_max"] - 1) < 1e-3, "the trainer scores what the engine sampled"

    from safetensors import safe_open

    with (
        safe_open(folder / "model" / "model.safetensors", "pt") as before,
        safe_open(folder / "runs" / "gsm8k" / "model" / "model.safetensors", "pt") as after,
    ):
        assert set(before.keys()) == set(after.keys())
        name = "model.layers.1.mlp.down_proj.weight"
        moved = (before.get_tensor(name).float() - after.get_tensor(name).float()).abs().max()
    assert 0 < moved < 1e-2


def test_the_evaluation_says_honestly_that_nothing_is_solved(summary: dict[str, Any]) -> None:
    overall = summary["overall"]
    assert (overall["n"], overall["k"], overall["n_samples"]) == (6, 2, 12)
    accuracy = overall["accuracy"]["avg_at_k"]
    assert accuracy["value"] <= 1 / 6 and accuracy["ci95"][0] <= accuracy["value"] <= accuracy["ci95"][1]
    assert accuracy["ci95"][1] > accuracy["value"], "of six problems an interval of no width would be a lie"
    assert summary["settings"]["verifiers"] == ["number"] and summary["settings"]["tasks"] == ["gsm8k_test"]
    assert sum(overall["health"]["verdicts"].values()) == 12
    assert 0 < overall["tokens"]["mean"] <= CAP


def test_the_cost_table_is_full_and_counts_the_right_parameters(summary: dict[str, Any]) -> None:
    assert summary["model"]["parameters"] == PARAMETERS
    cost = summary["overall"]["cost"]
    decoded, prompt = summary["overall"]["tokens"]["mean"], summary["overall"]["tokens"]["prompt_mean"]
    # The first token comes out of the prefill, so there is one decode step less; attention costs a little more.
    expected = 2 * (MATRICES * (prompt + decoded - 1) + VOCABULARY * HIDDEN * decoded)
    assert expected < cost["flops_mean"] < 1.03 * expected
    assert cost["decode_steps_mean"] == pytest.approx(decoded - 1)
    assert cost["peak_kv_mean"] == pytest.approx(2 * 2 * LAYERS * KV_HEADS * HEAD * (prompt + decoded - 1))
    for key in ("kv_read_mean", "latency_b1_mean", "max_concurrency"):
        assert cost[key] > 0
    for batch in ("1", "64"):
        assert cost["gpu_s"][batch] == pytest.approx(sum(cost["gpu_s_parts"][batch].values()))
    assert cost["gpu_s"]["64"] < cost["gpu_s"]["1"]
