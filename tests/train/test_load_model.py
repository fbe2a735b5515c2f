"""Loading a model: its tokenizer and its vocabulary belong together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from laconic.errors import DataError
from laconic.train.load_model import load_model, load_tokenizer, sampled_words


@pytest.fixture
def folder(random_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_model, tmp_path / "model"))


def test_words_that_only_the_model_has_are_padding_and_never_sampled(folder: Path) -> None:
    model, tokenizer = load_model(str(folder))
    assert len(tokenizer) < model.config.vocab_size == 32
    assert sampled_words(model, tokenizer) == len(tokenizer)


def test_words_that_only_the_tokenizer_has_are_refused(folder: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), load_tokenizer(str(folder))
    tokenizer.add_tokens([f"word{number}" for number in range(32 - len(tokenizer) + 2)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(DataError, match=r"34 tokens but the model only 32: 'word\d+' and 1 others.*resize_token_emb"):
        load_model(str(folder))
    model.resize_token_embeddings(34)
    model.save_pretrained(folder)
    assert sampled_words(*load_model(str(folder))) == 34


def test_a_padding_token_of_its_own_beyond_the_models_words_does_no_harm(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_tokens([f"word{number}" for number in range(32 - len(tokenizer))])
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    tokenizer.save_pretrained(folder)
    model, tokenizer = load_model(str(folder))
    assert tokenizer.pad_token_id == 32 and sampled_words(model, tokenizer) == 32
