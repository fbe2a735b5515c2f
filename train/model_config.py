"""The config.json of a model, found without a download: what the start-up estimates are computed from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .model_files import read_json, resolve_model

Config = dict[str, Any]
"""A config.json as a dict."""


def model_config(model: str) -> Config | None:
    """The configuration of ``model`` from its folder, the local Hub cache or the table below; None when unknown."""
    folder = Path(resolve_model(model))
    if (folder / "config.json").is_file():
        return read_json(folder / "config.json")
    cached = None if folder.exists() else _cached_config(model)
    return read_json(cached) if cached else KNOWN_CONFIGS.get(model)


def _cached_config(model: str) -> Path | None:
    if "/" not in model:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json")
    return Path(found) if isinstance(found, str) else None


def _qwen2(hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, *, tied: bool, positions: int) -> Config:
    sizes = _sizes(hidden, layers, heads, kv_heads, ffn, vocab=152_064 if hidden == 3584 else 151_936)
    return {**sizes, "model_type": "qwen2", "tie_word_embeddings": tied, "max_position_embeddings": positions}


def _qwen3(hidden: int, layers: int, heads: int, ffn: int, *, tied: bool) -> Config:
    sizes = _sizes(hidden, layers, heads, 8, ffn, vocab=151_936)
    family = {"model_type": "qwen3", "attention_bias": False, "head_dim": 128, "max_position_embeddings": 40_960}
    return {**sizes, **family, "tie_word_embeddings": tied}


def _sizes(hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, *, vocab: int) -> Config:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
        "vocab_size": vocab,
    }


KNOWN_CONFIGS = {
    "Qwen/Qwen2.5-0.5B": _qwen2(896, 24, 14, 2, 4864, tied=True, positions=32_768),
    "Qwen/Qwen2.5-1.5B": _qwen2(1536, 28, 12, 2, 8960, tied=True, positions=131_072),
    "Qwen/Qwen2.5-7B": _qwen2(3584, 28, 28, 4, 18_944, tied=False, positions=131_072),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": _qwen2(1536, 28, 12, 2, 8960, tied=False, positions=131_072),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": _qwen2(3584, 28, 28, 4, 18_944, tied=False, positions=131_072),
    "Qwen/Qwen3-0.6B": _qwen3(1024, 28, 16, 3072, tied=True),
    "Qwen/Qwen3-1.7B": _qwen3(2048, 28, 16, 6144, tied=True),
    "Qwen/Qwen3-4B": _qwen3(2560, 36, 32, 9728, tied=True),
    "Qwen/Qwen3-8B": _qwen3(4096, 36, 32, 12_288, tied=False),
}
"""Published sizes, so that a dry run says something useful before anything is downloaded."""
