"""The size of a transformer, as far as its cost depends on it: parameters, FLOPs per token, bytes per token.

    attention  h*n_q*d + 2*h*n_kv*d + n_q*d*h                    matmul weights of a layer
    ffn        3*h*f (gated) or 2*h*f (plain); experts: h*E + E*3*h*f_e stored, h*E + k_e*3*h*f_e active
    total      L*(attention + ffn) + small + V*h (twice if untied)
    KV         2*L*n_kv*d*b_kv bytes per token

Checked against the published parameter counts of Qwen2.5-1.5B and Qwen3-30B-A3B.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError

_QKV_BIAS = {"qwen2"}
"""Model types whose query, key and value projections always have a bias and whose config does not say so."""
_QK_NORM = {"qwen3", "qwen3_moe"}
"""Model types that normalise every query and key head."""
_PLAIN_FFN = {"gpt2", "gptj", "gpt_neox", "gpt_bigcode", "opt", "bloom", "falcon", "phi", "starcoder2"}
"""Model types with two FFN matrices instead of three."""


@dataclass(frozen=True)
class ModelSpec:
    """What the cost model needs to know of a decoder."""

    layers: int
    hidden: int
    q_heads: int
    kv_heads: int
    head_dim: int
    """Read from the config; it is not always hidden / q_heads."""
    ffn: int
    """Width of the dense FFN."""
    vocab: int
    """Rows of the embedding matrix, padding included; not the tokenizer's length."""
    tied: bool = False
    """Whether the embedding matrix is also the output head."""
    qkv_bias: bool = False
    qk_norm: bool = False
    gated: bool = True
    """Three FFN matrices (SwiGLU) rather than two."""
    experts: int = 0
    """Experts per mixture layer; 0 for a dense model."""
    experts_active: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0
    """Total width of the experts every token passes through."""
    dense_layers: int = 0
    """Layers of a mixture model that have a dense FFN."""
    window: int | None = None
    """Positions a sliding-window layer attends to."""
    window_layers: int = 0
    """Layers with sliding-window attention; 0 where ``window`` is None."""
    weight_bytes: float = 2
    """Bytes per weight: 2 for bf16."""
    kv_bytes: float = 2
    """Bytes per cached key or value element."""

    @classmethod
    def from_config(cls, config: Any, *, weight_bytes: float = 2, kv_bytes: float = 2) -> ModelSpec:
        """Read a transformers config object, its dict, a ``config.json`` or a model folder that holds one.

        Raises ``DataError`` for a missing or unreadable file, ``ConfigError`` for a size that is not given and for
        multi-head latent attention, which this model does not price.
        """
        return _read(_as_dict(config), weight_bytes, kv_bytes)

    def as_dict(self) -> dict[str, Any]:
        """The fields, for a report."""
        return asdict(self)

    # Parameters

    @cached_property
    def attention_matmul(self) -> int:
        """Attention matmul weights of one layer."""
        return self.hidden * self.head_dim * (2 * self.q_heads + 2 * self.kv_heads)

    @cached_property
    def ffn_matmul(self) -> int:
        """FFN matmul weights of one dense layer."""
        return (3 if self.gated else 2) * self.hidden * self.ffn

    def body(self, experts: Any = None) -> Any:
        """Matmul weights of all layers, counting ``experts`` of each mixture layer (None: all of them)."""
        if not self.experts:
            return self.layers * (self.attention_matmul + self.ffn_matmul)
        counted = self.experts if experts is None else experts
        mixture = self.hidden * self.experts + 3 * self.hidden * (counted * self.expert_ffn + self.shared_ffn)
        mixture_layers = self.layers - self.dense_layers
        return self.layers * self.attention_matmul + self.dense_layers * self.ffn_matmul + mixture_layers * mixture

    @cached_property
    def body_active(self) -> int:
        """Matmul weights one token passes through."""
        return int(self.body(self.experts_active))

    @cached_property
    def small(self) -> int:
        """Biases and norms."""
        bias = (self.q_heads + 2 * self.kv_heads) * self.head_dim if self.qkv_bias else 0
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        return self.layers * (bias + norms) + self.hidden

    @cached_property
    def table(self) -> int:
        """Weights of one embedding matrix."""
        return self.vocab * self.hidden

    @cached_property
    def parameters(self) -> int:
        """All stored parameters."""
        return int(self.body()) + self.small + self.table * (1 if self.tied else 2)

    @cached_property
    def parameters_active(self) -> int:
        """Parameters with the active experts only, both embedding tables counted if untied."""
        return self.body_active + self.small + self.table * (1 if self.tied else 2)

    # FLOPs (a multiply-add is 2) and bytes

    @cached_property
    def attention_flops(self) -> int:
        """FLOPs per token and attended position: 4*L*n_q*d."""
        return 4 * self.layers * self.q_heads * self.head_dim

    @cached_property
    def linear_flops(self) -> int:
        """FLOPs of the matmuls of all layers for one token."""
        return 2 * self.body_active

    @cached_property
    def head_flops(self) -> int:
        """FLOPs of the output head for one token."""
        return 2 * self.table

    @cached_property
    def kv_bytes_per_token(self) -> float:
        """Bytes of keys and values one token leaves in the cache."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.kv_bytes

    def experts_touched(self, batch: Any) -> Any:
        """Distinct experts a layer reads for ``batch`` tokens (a number or an array) under uniform routing."""
        return self.experts * (1 - (1 - self.experts_active / self.experts) ** batch) if self.experts else 0.0

    def weight_read_bytes(self, batch: Any = 1) -> Any:
        """Bytes of weights read by one decode step of ``batch`` sequences: every layer, the head, no input table."""
        return (self.body(self.experts_touched(batch)) + self.small + self.table) * self.weight_bytes

    @cached_property
    def stored_bytes(self) -> float:
        """Bytes of all weights in memory."""
        return self.parameters * self.weight_bytes


def _as_dict(config: Any) -> dict[str, Any]:
    if isinstance(config, str | Path):
        path = Path(config)
        path = path / "config.json" if path.is_dir() else path
        if not path.is_file():
            raise DataError(f"no model config at {path}; give a config.json or a model folder that holds one")
        try:
            loaded = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise DataError(f"{path} is not valid JSON (line {error.lineno}: {error.msg})") from error
        if not isinstance(loaded, dict):
            raise DataError(f"{path} holds a {type(loaded).__name__}, not a config object")
        config = loaded
    fields = dict(config) if isinstance(config, Mapping) else dict(config.to_dict())
    return dict(fields.get("text_config") or fields)


def _read(fields: dict[str, Any], weight_bytes: float, kv_bytes: float) -> ModelSpec:
    kind = fields.get("model_type", "")
    if fields.get("kv_lora_rank"):
        raise ConfigError(f"model type {kind!r} uses multi-head latent attention, which the cost model does not price")

    def size(*names: str, otherwise: int | None = None) -> int:
        value, name = next(((fields[name], name) for name in names if fields.get(name)), (otherwise, names[0]))
        if value is None:
            raise ConfigError(f"the model config (type {kind!r}) does not give {' or '.join(names)}")
        if not isinstance(value, int | float):
            raise ConfigError(
                f"the model config (type {kind!r}) gives {name} as a {type(value).__name__}; the cost model prices "
                "models whose layers are all of one size"
            )
        return int(value)

    layers = size("num_hidden_layers", "n_layer")
    hidden = size("hidden_size", "n_embd")
    q_heads = size("num_attention_heads", "n_head")
    expert_keys = ("num_local_experts", "num_experts", "n_routed_experts")
    experts = size(*expert_keys, otherwise=0)
    expert_ffn = size("moe_intermediate_size", "intermediate_size") if experts else 0
    shared_ffn = size("shared_expert_intermediate_size", otherwise=0)
    shared_ffn += size("n_shared_experts", otherwise=0) * expert_ffn
    every = int(fields.get("decoder_sparse_step") or 1)
    named = set(fields.get("mlp_only_layers") or ())
    first = int(fields.get("first_k_dense_replace") or 0)
    dense = [layer for layer in range(layers) if layer in named or layer < first or (layer + 1) % every]
    window, window_layers = sliding_window(fields, layers)
    return ModelSpec(
        layers=layers,
        hidden=hidden,
        q_heads=q_heads,
        kv_heads=size("num_key_value_heads", otherwise=q_heads),
        head_dim=size("head_dim", otherwise=hidden // q_heads),
        ffn=size("intermediate_size", "n_inner", otherwise=4 * hidden),
        vocab=size("vocab_size"),
        tied=bool(fields["tie_word_embeddings"] if "tie_word_embeddings" in fields else _tied_by_default(kind)),
        qkv_bias=bool(fields.get("qkv_bias", fields.get("attention_bias", kind in _QKV_BIAS))),
        qk_norm=kind in _QK_NORM or bool(fields.get("use_qk_norm")),
        gated=kind not in _PLAIN_FFN,
        experts=experts,
        experts_active=size("num_experts_per_tok") if experts else 0,
        expert_ffn=expert_ffn,
        shared_ffn=shared_ffn,
        dense_layers=len(dense) if experts else 0,
        window=window,
        window_layers=window_layers,
        weight_bytes=weight_bytes,
        kv_bytes=kv_bytes,
    )


def _tied_by_default(kind: str) -> bool:
    """What transformers takes for a model type whose config does not say; a type it does not know is not tied."""
    from transformers import CONFIG_MAPPING  # late: it takes a second, and most configs say

    return kind in CONFIG_MAPPING and bool(getattr(CONFIG_MAPPING[kind](), "tie_word_embeddings", False))


def sliding_window(fields: Mapping[str, Any], layers: int) -> tuple[int | None, int]:
    """Positions that a layer with a sliding window attends to, and how many of the ``layers`` are such; (None, 0)
    where none is."""
    window, used = fields.get("sliding_window"), fields.get("use_sliding_window")
    if used is None:  # where Qwen's config.json does not say, transformers takes it for no
        used = not str(fields.get("model_type")).startswith("qwen")
    if not window or not used:
        return None, 0
    kinds, whole = fields.get("layer_types"), int(fields.get("max_window_layers") or 0)
    # Without names, the first ``whole`` layers attend to everything.
    sliding = sum(kind == "sliding_attention" for kind in kinds) if kinds else max(0, layers - whole)
    return (int(window), sliding) if sliding else (None, 0)
