"""What the embedded engine may hold: positions of a sequence, sequences at a time, tokens of KV.

    KV budget in tokens = kv_bytes / bytes of one token
    flat sampling         all of it for live sequences
    trees                 half for live sequences (one at least), the rest for what finished ones leave to be continued

A sequence that can never fit is refused; what finished ones left is dropped when there is no room, and prefilled again.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ...errors import ConfigError
from .protocol import Request


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one engine. Raises ``ConfigError`` for one that cannot work."""

    max_live: int
    max_context: int
    token_bytes: int
    """KV of one token."""
    kv_bytes: int | None = None
    max_kept: int | None = None

    def __post_init__(self) -> None:
        if self.max_live < 1:
            raise ConfigError(f"max_live is {self.max_live} but must be at least 1; raise rollout.max_live")
        if self.max_kept is not None and self.max_kept < 0:
            raise ConfigError(f"max_kept is {self.max_kept} but must be at least 0, which keeps nothing; raise it")

    def check(self, request: Request) -> None:
        """Raise ``ConfigError`` for a request that can never run."""
        context, sampling = len(request.context), request.sampling
        end = context + request.max_tokens
        if context == 0:
            raise ConfigError(f"request {request.id} has an empty prompt; give at least one token")
        if request.max_tokens < 1:
            raise ConfigError(f"request {request.id}: max_tokens is {request.max_tokens} but must be at least 1")
        if end > self.max_context:
            raise ConfigError(
                f"a context of {context} tokens plus max_tokens {request.max_tokens} is {end} "
                f"but the engine holds {self.max_context} positions; lower rollout.max_completion or shorten the prompt"
            )
        if sampling.temperature < 0 or not 0 < sampling.top_p <= 1 or sampling.top_k < 0:
            raise ConfigError(f"{sampling}: temperature and top_k must be at least 0, top_p in (0, 1]")
        if request.keep is not None and request.keep < 0:
            raise ConfigError(f"request {request.id}: keep is {request.keep} but must be at least 0, or None for all")
        if self.rows(end, trees=False) < 1:
            raise ConfigError(
                f"one sequence of {end} tokens needs {end} x {self.token_bytes} B = {end * self.token_bytes:,} B of KV "
                f"but kv_bytes is {self.kv_bytes:,}; raise rollout.kv_gb or lower rollout.max_completion"
            )

    def rows(self, tokens: int, trees: bool) -> int:
        """How many sequences may be live when each must be able to come to ``tokens``."""
        if self.kv_bytes is None:
            return self.max_live
        fit = self.kv_bytes // (tokens * self.token_bytes)
        return min(self.max_live, max(fit // 2, min(fit, 1)) if trees else fit)

    def kept(self, tokens: int) -> int:
        """Tokens that finished sequences may leave behind while live ones come to ``tokens`` each."""
        if self.kv_bytes is None:
            room = self.max_live * self.max_context
        else:
            room = self.kv_bytes // self.token_bytes - self.rows(tokens, trees=True) * tokens
        return room if self.max_kept is None else min(room, self.max_kept)


def context_limit(config: object, wanted: int | None) -> int:
    """Positions a sequence may have. Raises ``ConfigError`` for models this cache cannot serve."""
    text = config.get_text_config()  # type: ignore[attr-defined]
    positions = getattr(text, "max_position_embeddings", None)
    limit = wanted if wanted is not None else positions
    if limit is None:
        raise ConfigError("the model's configuration names no max_position_embeddings; give max_context")
    if positions is not None and limit > positions:
        raise ConfigError(f"max_context is {limit} but the model has {positions} positions; lower it")
    kinds = set(getattr(text, "layer_types", None) or ())
    if strange := kinds - {"full_attention", "sliding_attention"}:
        raise ConfigError(f"the model has {', '.join(sorted(strange))} layers, which need another engine: use vllm")
    window = getattr(text, "sliding_window", None)
    slides = "sliding_attention" in kinds or (not kinds and getattr(text, "use_sliding_window", True))
    if window is not None and slides and window < limit:
        raise ConfigError(
            f"the model attends to the last {window} tokens only but max_context is {limit}; "
            f"lower max_context to {window} or use the vllm engine"
        )
    return int(limit)


def configured_eos(model: nn.Module) -> set[int]:
    """EOS ids of the generation settings and of the configuration."""
    found: set[int] = set()
    for settings in (getattr(model, "generation_config", None), model.config):
        ids = getattr(settings, "eos_token_id", None)
        if ids is not None:
            found.update([ids] if isinstance(ids, int) else ids)
    return found


def kv_bytes_per_token(config: object, model: nn.Module) -> int:
    """Keys and values of one token in all layers."""
    text = config.get_text_config()  # type: ignore[attr-defined]
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * width * next(model.parameters()).element_size()
