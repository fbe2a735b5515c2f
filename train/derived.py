"""What follows from the settings, said once in words before anything heavy starts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ConfigError
from ..eval.model_spec import ModelSpec
from ..rollout.bounds import PerPrompt
from .adapter import BITS, Lora
from .model_config import Config
from .settings import RolloutSettings, Settings

GIB = 2**30
WIDTH = 4
"""Bytes of a weight, gradient, moment or cached value: training keeps float32."""
ACTIVATION_WIDTHS = {"on a CPU": 4, "on a GPU (activations in bfloat16)": 2}
"""Bytes of an activation: on a GPU the trainer computes under autocast."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Estimated peak bytes of one rank, nothing sharded.

    With P parameters of b = 4 bytes each, a bytes per activation, V vocabulary, h hidden size, n layers, q = heads *
    head_dim, k = kv heads * head_dim, I inner size, M = tokens of a micro-batch (at least one longest row):

    - weights P b, gradients P b, Adam 2 P b, reference P b (only with a KL term);
    - with LoRA of A trained numbers (r times inputs and outputs of each matrix): weights P c + A b with c bytes of a
      frozen weight (``adapter.dtype``), gradients A b, Adam 2 A b, no reference;
    - key-value cache: live sequences * (longest context) * 2 n k b, the worst case, or rollout.kv_gb if that is less;
    - activations: M * n * (6 h + 2 q + 2 k + 4 I) * a; with gradient checkpointing M * (n h + one layer's) * a;
    - log-prob head: logits and their gradient in float32 for one chunk of at most 1,024 tokens, 8 * 1,024 * V.

    Peak = weights + gradients + Adam + reference + max(cache, activations + head): the embedded engine shares the
    trainer's weights and gives its cache back before the update. Allocator overhead, temporary buffers and the
    scores of eager attention are left out, so leave a fifth of the memory free.
    """

    weights: int
    gradients: int
    adam: int
    reference: int
    cache: int
    activations: int
    head: int

    @property
    def total(self) -> int:
        """The peak."""
        kept = self.weights + self.gradients + self.adam + self.reference
        return kept + max(self.cache, self.activations + self.head)


def derive(settings: Settings, config: Config | None) -> list[str]:
    """Lines for a person; ``config`` is the model's config.json, None when it is not on disk."""
    rollout, optim = settings.rollout, settings.optim
    ranks = world_size()
    sampled = prompts_sampled(settings)
    most = per_prompt(rollout)
    row = rollout.longest_context
    groups = rollout.prompts_per_step // optim.updates_per_batch
    updates = optim.updates_per_batch * optim.epochs
    rows = groups * most.rows
    micro_batches = math.ceil(rows / ranks / max(1, optim.micro_batch_tokens // row))
    at_most = "at most " if most.rows != rollout.group_size else ""
    oversampled = f" (the sampler may ask for up to {sampled})" if sampled > rollout.prompts_per_step else ""
    lines = [
        f"{rollout.prompts_per_step} prompts{oversampled} x {_samples(rollout, most)} = "
        f"{rollout.prompts_per_step * most.rollouts:,} rollouts per step, on {ranks} {_plural('rank', ranks)}, "
        f"at most {rollout.max_live} decoded at a time" + (" on each" * (ranks > 1)),
        f"{_plural_count(updates, 'update')} per step ({_times(optim.updates_per_batch, optim.epochs)}): "
        f"{groups} {_plural('prompt', groups)} = {at_most}{rows:,} rows each, in at most "
        f"{micro_batches:,} micro-batches of {optim.micro_batch_tokens:,} tokens" + (" on each rank" * (ranks > 1)),
        f"longest row {rollout.max_prompt:,} + {row - rollout.max_prompt:,} = {row:,} tokens"
        + (f" of the model's {positions(config):,} positions" if positions(config) else ""),
        f"{settings.steps:,} steps: {settings.steps * updates:,} updates, at most "
        f"{settings.steps * rollouts_sampled(settings):,} rollouts and {settings.steps * tokens_sampled(settings):,} "
        "sampled tokens" + (f", ending when {settings.tokens:,} are decoded" if settings.tokens else ""),
    ]
    if describe := getattr(settings.sampler, "describe", None):
        lines += describe(rollout.prompts_per_step, rollout.group_size)
    lines += _outliers(settings)
    if config is None:
        return [*lines, "model size and peak memory: unknown, config not on disk"]
    try:
        spec = ModelSpec.from_config(config)
    except ConfigError as error:
        return [*lines, f"model size and peak memory: unknown, {error}"]
    lines.append(f"model of {spec.parameters:,} parameters")
    if lora := _lora(settings):
        lines[-1] += f", of which none is trained, but {lora.parameters(spec):,} of an adapter of rank {lora.r}"
    for where, width in ACTIVATION_WIDTHS.items():
        lines.append(f"estimated peak memory {where}: {_in_words(estimate_memory(settings, spec, width))}")
    return lines


def estimate_memory(settings: Settings, spec: ModelSpec, activation_width: int) -> MemoryEstimate:
    """The parts of one rank's peak for activations of so many bytes; formula: :class:`MemoryEstimate`."""
    rollout, optim = settings.rollout, settings.optim
    row = rollout.longest_context
    tokens = max(optim.micro_batch_tokens, row)
    calls = max(per_prompt(rollout).live, _pilot(settings).live)
    live = min(rollout.max_live, math.ceil(_prompts_at_once(settings) / world_size()) * calls)
    queries, keys = spec.q_heads * spec.head_dim, spec.kv_heads * spec.head_dim
    layer = 6 * spec.hidden + 2 * queries + 2 * keys + 4 * (spec.experts_active * spec.expert_ffn or spec.ffn)
    kept = spec.layers * spec.hidden + layer if optim.gradient_checkpointing else spec.layers * layer
    whole = trained = spec.parameters * WIDTH
    frozen = 0
    if lora := _lora(settings):
        trained, frozen = lora.parameters(spec) * WIDTH, spec.parameters * BITS[lora.dtype]
    cache = live * row * 2 * spec.layers * keys * WIDTH
    return MemoryEstimate(
        weights=frozen + trained,
        gradients=trained,
        adam=2 * trained,
        reference=whole if getattr(settings.objective, "kl", 0) and not lora else 0,
        cache=cache if rollout.kv_gb is None else min(cache, int(rollout.kv_gb * 2**30)),
        activations=tokens * kept * activation_width,
        head=8 * min(1024, tokens) * spec.vocab,
    )


def _lora(settings: Settings) -> Lora | None:
    return settings.adapter if isinstance(settings.adapter, Lora) else None


def per_prompt(rollout: RolloutSettings) -> PerPrompt:
    """The most that the group of one prompt can come to."""
    return PerPrompt.of(rollout.driver, rollout.group_size, rollout.max_completion)


def prompts_sampled(settings: Settings) -> int:
    """The most prompts one step may sample for training: an oversampling sampler says how many."""
    prompts = settings.rollout.prompts_per_step
    most: Callable[[int], int] | None = getattr(settings.sampler, "most_prompts", None)
    return prompts if most is None else most(prompts)


def _prompts_at_once(settings: Settings) -> int:
    """The most prompts of one round of sampling."""
    one: Callable[[int], int] | None = getattr(settings.sampler, "prompts_per_round", None)
    return prompts_sampled(settings) if one is None else one(settings.rollout.prompts_per_step)


def rollouts_sampled(settings: Settings) -> int:
    """The most rollouts of one step, those of a sampler's pilot included."""
    rollout, pilot = settings.rollout, _pilot(settings)
    return prompts_sampled(settings) * per_prompt(rollout).rollouts + rollout.prompts_per_step * pilot.rollouts


def tokens_sampled(settings: Settings) -> int:
    """The most tokens that one step decodes."""
    rollout, pilot = settings.rollout, _pilot(settings)
    return prompts_sampled(settings) * per_prompt(rollout).decoded + rollout.prompts_per_step * pilot.decoded


def _pilot(settings: Settings) -> PerPrompt:
    """The most that a sampler tries out with each prompt before it decides."""
    answers, rollout = getattr(settings.sampler, "pilot_samples", 0), settings.rollout
    if not answers:
        return PerPrompt(0, 0, 0, 0)
    return PerPrompt.of(replace(rollout.driver, group_size=answers), answers, rollout.max_completion)


def _outliers(settings: Settings) -> list[str]:
    """How many answers of a group DOT can cut at most: k equal outliers of G reach z = sqrt((G-k)(G-1)/(G k))."""
    alpha, size = getattr(settings.truncation, "alpha", None), per_prompt(settings.rollout).rollouts
    if alpha is None:
        return []
    cut = sum(math.sqrt((size - k) * (size - 1) / (size * k)) > alpha for k in range(1, size))
    return [f"truncation cuts at most {cut} equally long outliers of {size} answers (alpha {alpha:g})"]


def positions(config: Config | None) -> int:
    """Longest sequence the model was made for; 0 when unknown."""
    return int((config or {}).get("max_position_embeddings") or 0)


def world_size() -> int:
    """Ranks of this run: what the launcher says, else 1."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def sharding() -> str | None:
    """What the launcher was told to use that shards weights over ranks, in words; None for DDP and ZeRO up to 2."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        return "FSDP"
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
    return "DeepSpeed ZeRO-3" if deepspeed and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3" else None


def _samples(rollout: RolloutSettings, most: PerPrompt) -> str:
    if most.rollouts == rollout.group_size:
        return f"{rollout.group_size} samples"
    return f"at most {most.rollouts} rollouts (rollout.group_size {rollout.group_size})"


def _in_words(memory: MemoryEstimate) -> str:
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "Adam": memory.adam,
        "reference": memory.reference,
    }
    kept = [f"{name} {_size(part)}" for name, part in parts.items() if part]
    return (
        f"{_size(memory.total)} per rank = {' + '.join(kept)} + the larger of key-value cache {_size(memory.cache)} "
        f"(rollout) and activations {_size(memory.activations)} + log-prob head {_size(memory.head)} (update)"
    )


def _size(count: int) -> str:
    return f"{count / GIB:,.1f} GiB" if count >= GIB else f"{count / 2**20:,.1f} MiB"


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else noun + "s"


def _plural_count(count: int, noun: str) -> str:
    return f"{count} {_plural(noun, count)}"


def _times(parts: int, epochs: int) -> str:
    return f"{_plural_count(parts, 'part')} x {_plural_count(epochs, 'pass')}".replace("passs", "passes")


def summary(settings: Settings, config: Config | None) -> dict[str, Any]:
    """The same as numbers, for ``--json``."""
    rollout, optim = settings.rollout, settings.optim
    most = per_prompt(rollout)
    try:
        spec = None if config is None else ModelSpec.from_config(config)
    except ConfigError:  # said in words by ``derive``; nothing to train hangs on it
        spec = None
    peaks = {d: estimate_memory(settings, spec, w).total for d, w in ACTIVATION_WIDTHS.items()} if spec else None
    return {
        "rollouts_per_step": rollout.prompts_per_step * most.rollouts,
        "rows_per_step": rollout.prompts_per_step * most.rows,
        "updates_per_step": optim.updates_per_batch * optim.epochs,
        "ranks": world_size(),
        "rollouts_at_most": settings.steps * rollouts_sampled(settings),
        "sampled_tokens_at_most": settings.steps * tokens_sampled(settings),
        "parameters": spec.parameters if spec else None,
        "trained": None if spec is None else lora.parameters(spec) if (lora := _lora(settings)) else spec.parameters,
        "peak_bytes": peaks,
    }
