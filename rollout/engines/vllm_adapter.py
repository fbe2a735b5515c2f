"""Adapter-only sync: vLLM keeps the frozen base, and after an update gets the LoRA matrices alone.

    start   base weights, once ──> model.safetensors ──> LLMEngine(enable_lora)
    sync    A and B of every layer ──> adapter_model.safetensors in shared memory ──> add_lora, under a new name

Merged weights would be all of the model again, and rounded: (W + s B A) x, where the trainer computes W x + s B (A x).
An adapter that vLLM cannot take (other layers than the seven projections, ranks or scales that differ, several adapters
at once) is merged and sent whole, as the weights of a model without one are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .vllm_heads import widen, widen_adapter

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Largest ranks that vLLM 0.31 can be started with."""
LAYERS = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})


def adapter_rank(model: nn.Module) -> int | None:
    """Rank of the adapter in ``model`` that vLLM takes by itself; None for no adapter, and for one it does not take."""
    layers = _adapted(model)
    kinds = {
        (tuple(layer.active_adapters), *(layer.r[name] for name in layer.active_adapters), *layer.scaling.values())
        for layer in layers.values()
    }
    known = all(name.rsplit(".", 1)[-1] in LAYERS for name in layers)
    alike = len(kinds) == 1 and len(next(iter(kinds))[0]) == 1
    if not known or not alike or any(layer.merged for layer in layers.values()):
        return None
    rank = int(next(iter(kinds))[1])
    return rank if rank <= RANKS[-1] else None


def engine_rank(rank: int) -> int:
    """The rank that vLLM is started with."""
    return next(size for size in RANKS if size >= rank)


def write_base(model: nn.Module, folder: Path, wide: bool) -> None:
    """The frozen weights as ``model.safetensors``; ``wide``: with the heads of ``vllm_heads``."""
    adapted = tuple(f"{name}." for name in _adapted(model))
    own = {
        name.replace(".base_layer.", "."): tensor.detach()
        for name, tensor in model.state_dict().items()
        if not name.startswith(adapted) or ".base_layer." in name
    }
    _save(widen(own, model.config) if wide else own, folder / "model.safetensors")


def write_adapter(model: nn.Module, folder: Path, wide: bool) -> None:
    """The matrices as peft saves them."""
    layers = _adapted(model)
    first = next(iter(layers.values()))
    (name,) = first.active_adapters
    matrices = {
        f"base_model.model.{path}.{side}.weight": getattr(layer, side)[name].weight.detach()
        for path, layer in layers.items()
        for side in ("lora_A", "lora_B")
    }
    folder.mkdir(exist_ok=True)
    _save(widen_adapter(matrices, model.config) if wide else matrices, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": first.r[name],
        "lora_alpha": first.scaling[name] * first.r[name],
        "target_modules": sorted({path.rsplit(".", 1)[-1] for path in layers}),
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def _adapted(model: nn.Module) -> dict[str, Any]:
    """Layers with LoRA matrices, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "base_layer") and hasattr(module, "lora_A")
    }


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    # tied tensors are written out one by one; the file format knows no aliases
    save_file({name: torch.clone(tensor).contiguous().cpu() for name, tensor in tensors.items()}, file)
