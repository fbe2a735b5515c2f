"""Objectives and models that packing would be wrong for, by name, before anything is loaded.

A token that answers share has one ratio and one place in the loss, which suits any loss that is a sum over tokens. Tree
attention is plain softmax attention over the path. What it does not do: attend within a window (unless every path is
shorter), select keys, add sinks or position-dependent biases, cap scores, drop some, carry a state from token to token,
or take values of another size than keys. Whatever else a model does with its attention, the self-test
(``self_test.py``) finds out on the loaded weights; what begins beyond the test's few tokens has to be named here.

No torch here: a dry run asks as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...eval.model_spec import sliding_window

if TYPE_CHECKING:
    from ..settings import Settings

Config = Mapping[str, Any]

_BIASED = {"bloom", "mpt"}
"""Model types that add a bias by distance (ALiBi) without a key in their config that says so."""
_SINKS = {"gpt_oss"}
_STATES = {
    *("mamba", "mamba2", "falcon_mamba", "jamba", "zamba", "zamba2", "bamba", "falcon_h1", "granitemoehybrid"),
    *("nemotron_h", "rwkv", "recurrent_gemma", "xlstm", "lfm2", "lfm2_moe", "qwen3_next", "minimax", "kimi_linear"),
    *("olmo_hybrid", "qwen3_5", "qwen3_5_moe", "plamo2"),
}
"""Model types with layers that carry a state from token to token."""
_DROPOUT = ("attention_dropout", "attn_pdrop", "attn_dropout", "attention_probs_dropout_prob")
"""What model families call the share of attention weights that training drops."""
_KNOWN_LAYERS = {"full_attention", "sliding_attention"}


def why_rows(settings: Settings, config: Config | None) -> str | None:
    """Why a run can't be packed; None if neither objective nor config.json (None: unknown) speaks against it."""
    reason = objection(settings.objective)
    if reason is None and config is not None:
        reason = of_model(config, settings.rollout.longest_context)
    return reason


def refused(reason: str) -> ConfigError:
    """What a run ends with that asks for packing all the same."""
    return ConfigError(f"optim.packing is tree, but {reason}; set optim.packing=auto, which then uses rows")


def objection(objective: Any) -> str | None:
    """Why an objective can't be packed, None if it can."""
    if getattr(objective, "packs", "rows") == "exact":
        return None
    name = getattr(objective, "name", type(objective).__name__)
    return f"objective {name} needs each row by itself: its terms don't add up over rows that share a token"


def of_model(config: Config, longest: int) -> str | None:
    """Why a model can't be packed, None if nothing in its config.json speaks against it; see :func:`refusal`."""
    reason = refusal(config.get("text_config") or config, longest)
    return None if reason is None else f"model type {config.get('model_type')} {reason}"


def refusal(config: Config, longest: int) -> str | None:
    """Why rows can't be packed for a model, as words that follow its name; None if they can.

    Args:
        config: the text model's config.json.
        longest: most tokens that a path can have.
    """
    reasons: list[Callable[[Config, int], str | None]] = [
        _selection, _state, _window, _sinks, _bias, _cap, _rotary, _dropout, _sizes
    ]  # fmt: skip
    return next(filter(None, (reason(config, longest) for reason in reasons)), None)


def _state(config: Config, _: int) -> str | None:
    if config.get("model_type") in _STATES:
        return "has layers that carry a state from token to token (state-space or linear attention)"
    foreign = sorted({str(kind) for kind in config.get("layer_types") or ()} - _KNOWN_LAYERS)
    return f"has layers of type {', '.join(foreign)}" if foreign else None


def _window(config: Config, longest: int) -> str | None:
    window, _ = sliding_window(config, config.get("num_hidden_layers") or 1)
    if window is None or longest <= window:
        return None
    return f"has sliding windows of {window:,} tokens, and paths may have {longest:,}"


def _selection(config: Config, longest: int) -> str | None:
    most = config.get("index_topk")
    if not most or longest <= most:
        return None
    return f"attends to the {most:,} best keys only, and paths may have {longest:,}"


def _sinks(config: Config, _: int) -> str | None:
    sinks = config.get("model_type") in _SINKS or any("sink" in key and value for key, value in config.items())
    return "has attention sinks" if sinks else None


def _bias(config: Config, _: int) -> str | None:
    attention = config.get("attn_config") or {}
    alibi = config.get("alibi") or (isinstance(attention, Mapping) and attention.get("alibi"))
    biased = alibi or config.get("model_type") in _BIASED
    return "adds a bias by distance to its attention scores (ALiBi)" if biased else None


def _cap(config: Config, _: int) -> str | None:
    cap = config.get("attn_logit_softcapping")
    return f"caps its attention scores at {cap:g}" if cap else None


def _rotary(config: Config, longest: int) -> str | None:
    """Frequencies that a whole forward pass shares, chosen by its longest sequence: a pack's is not the row's."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    for one in (rope, *(value for value in rope.values() if isinstance(value, Mapping))):
        kind = one.get("rope_type", one.get("type"))
        known = one.get("original_max_position_embeddings", config.get("original_max_position_embeddings"))
        known = known or config.get("max_position_embeddings") or 0
        if kind in ("dynamic", "longrope", "su") and longest > known:
            return f"has rotary embeddings ({kind}) that change beyond {known:,} tokens, and paths may have {longest:,}"
    return None


def _dropout(config: Config, _: int) -> str | None:
    rates = ((key, config.get(key)) for key in _DROPOUT)
    drops = (f"{key} {rate:g}" for key, rate in rates if isinstance(rate, int | float) and rate)
    return next((f"drops attention weights in training ({drop})" for drop in drops), None)


def _sizes(config: Config, _: int) -> str | None:
    keys = (config.get("qk_nope_head_dim") or 0) + (config.get("qk_rope_head_dim") or 0)
    values = config.get("v_head_dim")
    if not keys or not values or keys == values:
        return None
    return f"has heads with keys of {keys} and values of {values} numbers (latent attention)"
