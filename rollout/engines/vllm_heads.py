"""Heads of a width that vLLM's CPU attention lacks, made wider without changing what the model computes.

    d -> D: zeros fill the new half-ends of each head, q is scaled by sqrt(D / d), rope_theta becomes theta^(D / d)

Rotary pairs (i, i + d/2) become (i, i + D/2), and theta^(D/d * -2i/D) = theta^(-2i/d): angles stay. Scores are divided
by sqrt(D) instead of sqrt(d), which the scale of q undoes; zeros add nothing to scores and outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig

from ...errors import ConfigError

WIDTHS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256)
"""Head widths that vLLM 0.31's attention supports on a CPU."""
_FAMILIES = ("qwen2", "llama")


def head_width(config: Any) -> int:
    """Width of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def wider(config: Any) -> Any:
    """``config``, or a copy with wider heads. Raises ``ConfigError`` for one whose heads cannot be widened."""
    text = config.get_text_config()
    width = head_width(text)
    if width in WIDTHS:
        return config
    rope = dict(getattr(text, "rope_parameters", None) or {})
    plain = rope.get("rope_type", "default") == "default" and rope.get("partial_rotary_factor", 1.0) == 1.0
    if width > WIDTHS[-1] or width % 2 or text.model_type not in _FAMILIES or not plain or "rope_theta" not in rope:
        raise ConfigError(
            f"the model's heads are {width} wide but vLLM on a CPU supports {', '.join(map(str, WIDTHS))}; "
            "set rollout.engine=transformers"
        )
    target = next(size for size in WIDTHS if size > width)
    # vLLM's Qwen2 takes the width from hidden_size; its Llama asks head_dim, and is Qwen2 with biases on q, k and v
    changed = LlamaConfig.from_dict({**text.to_dict(), "model_type": "llama"})
    changed.architectures = ["LlamaForCausalLM"]
    changed.attention_bias = text.model_type == "qwen2" or bool(getattr(text, "attention_bias", False))
    changed.mlp_bias = bool(getattr(text, "mlp_bias", False))
    changed.head_dim = target
    changed.rope_parameters = {**rope, "rope_theta": float(rope["rope_theta"]) ** (target / width)}
    return changed


def widen(weights: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """A ``state_dict`` of ``config`` for ``wider(config)``."""
    width, target = head_width(config), head_width(wider(config))
    if width == target:
        return weights
    changed = dict(weights)
    for name, tensor in weights.items():
        kind = name.split(".")[-2] if "." in name else ""
        if kind in ("q_proj", "k_proj", "v_proj"):
            changed[name] = _rows(tensor, width, target) * ((target / width) ** 0.5 if kind == "q_proj" else 1.0)
        elif kind == "o_proj" and name.endswith("weight"):
            changed[name] = _rows(tensor.T, width, target).T.contiguous()
            bias = name.replace("weight", "bias")
            if bias not in weights and bias.replace("o_proj", "q_proj") in weights:
                # biases come with all four projections of a Llama
                changed[bias] = torch.zeros_like(tensor[:, 0])
    return changed


def widen_adapter(matrices: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """LoRA matrices of ``config`` for ``wider(config)``: B makes rows of q, k and v, A reads the columns of o."""
    width, target = head_width(config), head_width(wider(config))
    if width == target:
        return matrices
    changed = dict(matrices)
    for name, tensor in matrices.items():
        kind, side = name.split(".")[-3:-1]
        if kind in ("q_proj", "k_proj", "v_proj") and side == "lora_B":
            changed[name] = _rows(tensor, width, target) * ((target / width) ** 0.5 if kind == "q_proj" else 1.0)
        elif kind == "o_proj" and side == "lora_A":
            changed[name] = _rows(tensor.T, width, target).T.contiguous()
    return changed


def _rows(tensor: Tensor, width: int, target: int) -> Tensor:
    """Each head's two halves moved to the starts of the wider halves; rows are (head, half, position)."""
    tensor = tensor.detach()
    halves = tensor.reshape(-1, 2, width // 2, *tensor.shape[1:])
    out = torch.zeros(halves.shape[0], 2, target // 2, *tensor.shape[1:], dtype=tensor.dtype, device=tensor.device)
    out[:, :, : width // 2] = halves
    return out.reshape(-1, *tensor.shape[1:])
