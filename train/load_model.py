"""Weights and tokenizer, on the device they are used on."""

from __future__ import annotations

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import logging

from ..errors import DataError
from .adapter import adapter_folder, base_of, find_adapter, merge_into
from .hub.download import explained
from .model_files import check_model_folder, resolve_model
from .ranks import on_gpu


def load_model(
    model: str, *, training: bool = False, adapter: str | None = None, dtype: str = "float32"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a packaged name, folder or Hub id, on the device it is used on.

    float32 on a CPU and for training, where AdamW's small steps would round away in bfloat16 (the trainer computes
    under autocast); bfloat16 for inference on a GPU. ``dtype`` is for training's frozen weights.

    ``adapter``: a folder or Hub id whose adapter is merged into the model, in float32. Outside of training ``model``
    itself may be an adapter, which is merged into the base it names.

    Raises:
        DataError: no such model, a folder without weights, tokenizer or EOS token, a tokenizer with words that the
            model does not know, or an adapter of another model.
    """
    location = resolve_model(model)
    added = adapter_folder(adapter) if adapter else None if training else find_adapter(location)
    if added and not adapter:
        location = resolve_model(base_of(added))
    check_model_folder(location)
    logging.disable_progress_bar()  # a bar per weight file tells nobody anything
    gpu = on_gpu()
    used = torch.bfloat16 if gpu and not training else getattr(torch, dtype)
    with explained(location):
        loaded = AutoModelForCausalLM.from_pretrained(location, dtype=torch.float32 if added else used)
        tokenizer = load_tokenizer(str(added) if added and (added / "tokenizer.json").is_file() else location)
    _check_vocabulary(location, loaded, tokenizer)
    if added:
        loaded = merge_into(loaded, added).to(used)
    return loaded.to("cuda" if gpu else "cpu").eval(), tokenizer


def load_tokenizer(location: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or on the Hub, as it was saved.

    ``AutoTokenizer`` prefers the class that is usual for the model's family. That of Qwen2 makes another tokenizer out
    of a plain fast one: it adds a token, and drops characters that it does not know.
    """
    plain = get_tokenizer_config(location).get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")
    return (PreTrainedTokenizerFast if plain else AutoTokenizer).from_pretrained(location)


def stored_dtype(model: str) -> torch.dtype:
    """The number type in which the weights of a packaged name, folder or Hub id are stored; float32 if it says none."""
    return AutoConfig.from_pretrained(resolve_model(model)).dtype or torch.float32


def sampled_words(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many words are sampled and scored: models pad their vocabulary beyond the tokenizer's."""
    return min(len(tokenizer), int(model.config.get_text_config().vocab_size))


def _check_vocabulary(location: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    words = int(model.config.get_text_config().vocab_size)
    if len(tokenizer) <= words:
        return
    # Some tokenizers have a padding token of their own beyond the model's words; no text ever holds it.
    beyond = [token for token, id in tokenizer.get_vocab().items() if id >= words and token != tokenizer.pad_token]
    if beyond:
        raise DataError(
            f"the tokenizer of {location} has {len(tokenizer)} tokens but the model only {words}: {beyond[0]!r} and "
            f"{len(beyond) - 1} others would be unknown to it; take the tokenizer that belongs to the model, or "
            "enlarge the model with resize_token_embeddings and save it again"
        )
