"""Random groups of flat rollouts, tiny random models, in memory and on disk, and a trainer on one of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from laconic.rollout.records import Group, Kind, Leaf, Rollout, Segment, Stop

# Makes the helpers beside the tests importable under ``--import-mode=importlib``.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def flat_groups() -> Callable[..., list[Group]]:
    """``flat_groups(seed, lengths)``: one group per list of answer lengths, with random tokens and log-probs."""
    return _flat_groups


@pytest.fixture
def tiny_qwen() -> Callable[..., object]:
    """``tiny_qwen(seed)``: a random Qwen2 of a few thousand parameters with 32 words, in float64."""
    return _tiny_qwen


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random model with the tiny thinker's tokenizer, which does not know all of the model's 32 words."""
    from laconic.train.thinker.tokenizer import build_tokenizer

    tokenizer, path = build_tokenizer(), tmp_path_factory.mktemp("model") / "random"
    model = _tiny_qwen().float()
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def make(random_model: Path, tmp_path: Path) -> Callable[..., object]:
    """``make("dot", "steps=2", folder=..., judge=...)``: a trainer ready to ``train()``."""
    from tiny_trainer import make_trainer

    return partial(make_trainer, random_model, tmp_path)


def _flat_groups(seed: int, lengths: Sequence[Sequence[int]], vocabulary: int = 22, prompt: int = 4) -> list[Group]:
    rng = np.random.default_rng(seed)

    def ids(count: int) -> np.ndarray:
        return rng.integers(1, vocabulary, count).astype(np.int32)

    groups = []
    for number, answers in enumerate(lengths):
        size = prompt + number
        segments = [Segment(0, None, 0, Kind.PROMPT, ids(size), np.full(size, np.nan, np.float32))]
        for index, length in enumerate(answers):
            logp = -rng.exponential(2.0, length).astype(np.float32)
            segments.append(Segment(index + 1, 0, size, Kind.SAMPLED, ids(length), logp, Stop.EOS))
        leaves = tuple(Leaf(index, index + 1) for index in range(len(answers)))
        group = Group(number, f"p{number}", tuple(segments), leaves, tuple(Rollout((leaf.id,)) for leaf in leaves))
        group.validate()
        groups.append(group)
    return groups


def _tiny_qwen(seed: int = 0):
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=32, max_position_embeddings=64, pad_token_id=0, bos_token_id=None, eos_token_id=1,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            # Far from uniform distributions.
            parameter.mul_(6 if parameter.dim() > 1 else 1)
    return model
