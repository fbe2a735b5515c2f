"""Weights and tokenizer, on the device they are used on."""

from __future__ import annotations

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import logging

from .model_files import check_model_folder, resolve_model


def load_model(model: str, *, training: bool = False) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a packaged name, folder or Hub id, on the device it is used on.

    float32 on a CPU and for training, where AdamW's small steps would round away in bfloat16 (the trainer computes
    under autocast); bfloat16 for inference on a GPU.

    Raises:
        DataError: no such model, or a folder without weights, tokenizer or EOS token.
    """
    location = resolve_model(model)
    check_model_folder(location)
    logging.disable_progress_bar()  # a bar per weight file tells nobody anything
    gpu = torch.cuda.is_available()
    loaded = AutoModelForCausalLM.from_pretrained(
        location, dtype=torch.bfloat16 if gpu and not training else torch.float32
    )
    return loaded.to("cuda" if gpu else "cpu").eval(), load_tokenizer(location)


def load_tokenizer(location: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or on the Hub, as it was saved.

    ``AutoTokenizer`` prefers the class that is usual for the model's family. That of Qwen2 makes another tokenizer out
    of a plain fast one: it adds a token, and drops characters that it does not know.
    """
    plain = get_tokenizer_config(location).get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")
    return (PreTrainedTokenizerFast if plain else AutoTokenizer).from_pretrained(location)


def sampled_words(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many words are sampled and scored: models pad their vocabulary beyond the tokenizer's."""
    return min(len(tokenizer), int(model.config.get_text_config().vocab_size))
