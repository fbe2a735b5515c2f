"""The embedded engine: continuous batching on any causal LM of transformers, in process, on a CPU or a GPU.

    submit ──> queue ──> prefill (once per context, several contexts a forward) ──> slots 0..n-1 ──> Completion
                                                                          │  one forward per step  │
                                                                          └── sample, find the done┘

The forward is the model's own; only where keys and values lie and how one new token attends to them is ours
(``slots.py``). No step computes a padding row: the slot of a sequence that ended goes to the next one in the queue,
and when the queue is empty the last live row moves into it. Everything but KV and mask lives on the host in NumPy
arrays, and a step waits for the device once.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache

from ...errors import ConfigError, RunError
from ..records import Stop
from .protocol import Completion, Request
from .rows import Call, Rows
from .sampling import draw
from .slots import SLOT_ATTENTION, Prefix, SlotCache, UnsupportedAttention
from .weights import load_complete

# Shapes: N rows sampled, n live slots, V vocabulary, T tokens, B contexts prefilled together

_PREFILL_TOKENS = 8192
_PREFILL_AHEAD = 8
_ORDER_EVERY = 8
_STANDARD = frozenset({"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"})


class TransformersEngine:
    """Decodes requests on ``model``; implements ``Engine``."""

    def __init__(
        self,
        model: nn.Module,
        eos_ids: Sequence[int],
        *,
        max_live: int = 256,
        max_context: int | None = None,
        allowed_vocab: int | None = None,
        kv_bytes: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """``model``: a causal LM, possibly wrapped by PEFT or with a patched ``forward``; it is not copied.

        ``eos_ids``: the tokenizer's; those of the model's own configuration are added.
        ``max_live``: sequences decoded at a time. ``max_context``: longest prompt plus completion, by default the
        model's positions. ``allowed_vocab``: ids from here on are never sampled (vocabularies are padded beyond the
        tokenizer's). ``kv_bytes``: upper bound on KV memory; fewer sequences are live if it demands so.
        Raises ``ConfigError`` for limits that cannot work and for models whose cache is not one entry per token.
        """
        self.model = model if device is None else model.to(device)
        self.config = model.config
        self.device = next(model.parameters()).device
        if max_live < 1:
            raise ConfigError(f"max_live is {max_live} but must be at least 1; raise rollout.max_live")
        self.max_live, self.kv_bytes = max_live, kv_bytes
        self.max_context = _context_limit(self.config, max_context)
        self.vocabulary = int(self.config.get_text_config().vocab_size)
        self.allowed_vocab = self.vocabulary if allowed_vocab is None else allowed_vocab
        if not 1 <= self.allowed_vocab <= self.vocabulary:
            raise ConfigError(f"allowed_vocab is {allowed_vocab} but the model has {self.vocabulary} ids; lower it")
        self.eos_ids = tuple(sorted({*eos_ids, *_configured_eos(model)}))
        self.policy_version = 0
        self._own_attention = bool(getattr(model, "_supports_attention_backend", True))
        self._look_at_model()
        self._queue: deque[Call] = deque()
        self._waiting: Counter[bytes] = Counter()
        self._prefixes: dict[bytes, Prefix] = {}
        self._slots: SlotCache | None = None
        self._rows = Rows(self.eos_ids, self.allowed_vocab)
        self._steps = 0

    @property
    def busy(self) -> bool:
        """Whether a request is queued or live."""
        return bool(self._queue) or self._rows.live > 0

    @property
    def live(self) -> int:
        """Sequences being decoded."""
        return self._rows.live

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests in order. Raises ``ConfigError`` for a request that can never run."""
        for request in requests:
            self._check(request)
        if not self.busy:
            self._look_at_model()
        for request in requests:
            call = Call(request, np.ascontiguousarray(request.context, np.int32).tobytes())
            self._queue.append(call)
            self._waiting[call.key] += 1

    def step(self) -> list[Completion]:
        """Admit what fits, then decode one token of every live sequence; a new sequence gets two."""
        finished: list[Completion] = []
        with self._inference():
            self._admit(finished)
            if self._rows.live:
                self._decode(finished)
        if not self.busy:
            # the trainer wants the memory between two rollouts
            self._slots = None
            self._rows.reset()
        return finished

    def abort(self, requests: Sequence[int]) -> list[Completion]:
        """End requests now, with the tokens they have; unknown ids are ignored."""
        doomed = set(requests)
        ended = []
        for call in [call for call in self._queue if call.request.id in doomed]:
            self._queue.remove(call)
            self._forget(call.key)
            nothing = np.empty(0, np.int32), np.empty(0, np.float32)
            ended.append(call.completion(*nothing, Stop.ABORTED, self.policy_version, admitted=False))
        for slot in self._rows.slots_of(doomed):
            ended.append(self._finish(slot, Stop.ABORTED))
        return ended

    def sync(self, weights: Mapping[str, Tensor] | None, version: int) -> None:
        """Load a complete ``state_dict`` (None: the model already has the new weights) and drop every cache.

        Raises ``RuntimeError`` while sequences are live: one completion has one policy. Raises ``DataError`` for
        anything missing, left over or of another shape, the alias of tied embeddings included.
        """
        if self._rows.live:
            raise RuntimeError(f"{self._rows.live} sequences are live; finish or abort them before new weights come")
        if version < self.policy_version:
            raise ValueError(f"version is {version} but the engine has {self.policy_version}; versions only rise")
        if weights is not None:
            load_complete(self.model, weights)
        self._drop_caches()
        self.policy_version = version

    def _drop_caches(self) -> None:
        self._prefixes.clear()
        self._slots = None

    # ------------------------------------------------------------------------------------------------ admission

    def _check(self, request: Request) -> None:
        context, limit = len(request.context), self.max_context
        sampling = request.sampling
        if context == 0:
            raise ConfigError(f"request {request.id} has an empty prompt; give at least one token")
        if request.max_tokens < 1:
            raise ConfigError(f"request {request.id}: max_tokens is {request.max_tokens} but must be at least 1")
        if context + request.max_tokens > limit:
            raise ConfigError(
                f"a context of {context} tokens plus max_tokens {request.max_tokens} is {context + request.max_tokens} "
                f"but the engine holds {limit} positions; lower rollout.max_completion or shorten the prompt"
            )
        if sampling.temperature < 0 or not 0 < sampling.top_p <= 1 or sampling.top_k < 0:
            raise ConfigError(f"{sampling}: temperature and top_k must be at least 0, top_p in (0, 1]")
        if self.kv_bytes is not None and self._rows_that_fit(context + request.max_tokens) < 1:
            per_token = _kv_bytes_per_token(self.config, self.model)
            raise ConfigError(
                f"one sequence of {context + request.max_tokens} tokens needs {context + request.max_tokens} x "
                f"{per_token} B = {(context + request.max_tokens) * per_token:,} B of KV but kv_bytes is "
                f"{self.kv_bytes:,}; raise it or lower rollout.max_completion"
            )

    def _rows_that_fit(self, tokens: int) -> int:
        """How many slots may exist when each must be able to hold ``tokens``."""
        if self.kv_bytes is None:
            return self.max_live
        return min(self.max_live, self.kv_bytes // (tokens * _kv_bytes_per_token(self.config, self.model)))

    def _admit(self, finished: list[Completion]) -> None:
        rows = self._rows
        while self._queue:
            longest = max(max(call.end for call in self._queue), rows.longest_end())
            calls = self._take(self._rows_that_fit(longest) - rows.live)
            if not calls:
                break
            slots = rows.admit(calls)
            if self._slots is None:
                self._slots = SlotCache(self._prefixes[calls[0].key], self.max_live)
            self._slots.reserve(self._rows_wanted(), max(len(call.request.context) for call in calls) + 1)
            by_context: dict[bytes, list[int]] = {}
            for call, slot in zip(calls, slots, strict=True):
                by_context.setdefault(call.key, []).append(slot)
            for key, targets in by_context.items():
                self._slots.place(targets, self._prefixes[key])
            logits_NV = torch.stack([self._prefixes[call.key].logits_V for call in calls])
            for call in calls:
                self._forget(call.key)
            self._accept(np.asarray(slots), logits_NV, finished)
        source, target = rows.close_holes()
        if source and self._slots is not None:
            self._slots.move(source, target, int(rows.length[rows.record[target]].max()))

    def _rows_wanted(self) -> int:
        return min(self._rows.used + len(self._queue), self.max_live)

    def _take(self, room: int) -> list[Call]:
        """Up to ``room`` calls from the head of the queue, their contexts prefilled."""
        calls: list[Call] = []
        while self._queue and len(calls) < room:
            if self._queue[0].key not in self._prefixes:
                self._prefill(room - len(calls))
            calls.append(self._queue.popleft())
        return calls

    def _forget(self, key: bytes) -> None:
        self._waiting[key] -= 1
        if not self._waiting[key]:
            del self._waiting[key]
            self._prefixes.pop(key, None)

    def _prefill(self, room: int) -> None:
        """Compute the next contexts of the queue: those that get a slot now, and a few to come."""
        chosen: dict[bytes, Call] = {}
        longest = ahead = 0
        for index, call in enumerate(self._queue):
            if call.key in self._prefixes or call.key in chosen:
                continue
            longest = max(longest, len(call.request.context))
            ahead += index >= room
            if chosen and (longest * (len(chosen) + 1) > _PREFILL_TOKENS or ahead > _PREFILL_AHEAD):
                break
            chosen[call.key] = call
        width = max(len(call.request.context) for call in chosen.values())
        ids_BT = np.zeros((len(chosen), width), np.int64)
        mask_BT = np.zeros((len(chosen), width), np.int64)
        for row, call in enumerate(chosen.values()):
            length = call.prefilled = len(call.request.context)
            ids_BT[row, width - length :] = call.request.context
            mask_BT[row, width - length :] = 1
        position_BT = np.maximum(mask_BT.cumsum(1) - 1, 0)
        cache = DynamicCache()
        logits_BTV = self._forward(
            None,
            input_ids=self._to_device(ids_BT),
            attention_mask=None if mask_BT.all() else self._to_device(mask_BT),
            position_ids=self._to_device(position_BT),
            past_key_values=cache,
            logits_to_keep=1,
        )
        for row, call in enumerate(chosen.values()):
            start = width - call.prefilled
            # clones: a view would keep the KV of the whole batch alive
            layers = [
                (layer.keys[row, :, start:].clone(), layer.values[row, :, start:].clone()) for layer in cache.layers
            ]
            self._prefixes[call.key] = Prefix(layers, logits_BTV[row, -1, : self.allowed_vocab].float())

    # ------------------------------------------------------------------------------------------------ decoding

    def _decode(self, finished: list[Completion]) -> None:
        rows, slots = self._rows, self._slots
        assert slots is not None
        self._steps += 1
        if self._steps % _ORDER_EVERY == 0:
            length_n = rows.length[rows.record[: rows.used]]
            source, target = slots.order_by_length(length_n)
            if source:
                slots.move(source, target, int(length_n[source].max()))
                rows.record[target] = rows.record[source]
        record_n = rows.record[: rows.used]
        position_n = rows.length[record_n]
        slots.reserve(self._rows_wanted(), int(position_n.max()) + 1)
        mask_n11L = slots.begin_step(position_n)
        inputs = {
            "input_ids": self._to_device(rows.last[record_n][:, None]),
            "attention_mask": mask_n11L,
            "position_ids": self._to_device(position_n[:, None]),
            "past_key_values": slots,
        }
        try:
            logits_n1V = self._forward(SLOT_ATTENTION if self._own_attention else None, **inputs)
        except UnsupportedAttention:
            # what the failed forward wrote is written again, with the same values
            self._own_attention = False
            logits_n1V = self._forward(None, **inputs)
        rows.length[record_n] += 1
        self._accept(np.arange(rows.used), logits_n1V[:, -1, : self.allowed_vocab].float(), finished)

    def _accept(self, slot_N: NDArray[np.int64], logits_NV: Tensor, finished: list[Completion]) -> None:
        """Sample a token for each of ``slot_N``, note it, and end the sequences it ends."""
        rows = self._rows
        record_N = rows.record[slot_N]
        uniform_N = torch.from_numpy(rows.uniforms(record_N)).to(self.device, non_blocking=True)
        if len(rows.samplings) == 1:
            drawn = draw(logits_NV, rows.samplings[0], uniform_N)
        else:
            drawn = (torch.empty_like(uniform_N, dtype=torch.int64), torch.empty_like(uniform_N, dtype=torch.float32))
            for kind in np.unique(rows.sampling[record_N]):
                some = torch.from_numpy(np.flatnonzero(rows.sampling[record_N] == kind)).to(self.device)
                ids, logp = draw(logits_NV[some], rows.samplings[kind], uniform_N[some])
                drawn[0][some], drawn[1][some] = ids, logp
        # ids below 2^53 pass through float64 unharmed, and the step waits for the device once
        both_2N = torch.stack([drawn[0].double(), drawn[1].double()]).cpu().numpy()
        if not np.isfinite(both_2N[1]).all():
            raise RunError(
                "the model's logits are not numbers, so no token can be sampled; its weights are broken or overflow: "
                "go back to an earlier checkpoint, or to the model it was made from"
            )
        for index, stop in rows.note(record_N, both_2N[0].astype(np.int64), both_2N[1]):
            finished.append(self._finish(int(slot_N[index]), stop))

    def _finish(self, slot: int, stop: Stop) -> Completion:
        call, ids, logp = self._rows.release(slot)
        return call.completion(ids, logp, stop, self.policy_version)

    def _forward(self, attention: str | None, **inputs: object) -> Tensor:
        """Logits of the model's own forward under an attention implementation (None: one that can prefill)."""
        before = [config._attn_implementation_internal for config in self._configs]
        for config, own in zip(self._configs, before, strict=True):
            config._attn_implementation_internal = attention or (own if own in _STANDARD else "sdpa")
        try:
            return self.model(use_cache=True, **inputs).logits
        finally:
            for config, own in zip(self._configs, before, strict=True):
                config._attn_implementation_internal = own

    def _look_at_model(self) -> None:
        """List modules and configurations once; steps are too many to walk the tree in each."""
        self._modules = list(self.model.modules())
        configs = {id(module.config): module.config for module in self._modules if hasattr(module, "config")}
        self._configs = [c for c in configs.values() if getattr(c, "_attn_implementation_internal", None)]

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """No gradients, no dropout; every module's training flag is put back."""
        training = [module for module in self._modules if module.training]
        for module in training:
            # Module.__setattr__ first looks for parameters; in every step and for every module that takes longer
            # than a layer of a small model
            object.__setattr__(module, "training", False)
        try:
            # not inference_mode: rotary embeddings may cache tensors that a later training forward would trip over
            with torch.no_grad():
                yield
        finally:
            for module in training:
                object.__setattr__(module, "training", True)

    def _to_device(self, array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)


def _context_limit(config: object, wanted: int | None) -> int:
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


def _configured_eos(model: nn.Module) -> set[int]:
    """EOS ids of the generation settings and of the configuration."""
    found: set[int] = set()
    for settings in (getattr(model, "generation_config", None), model.config):
        ids = getattr(settings, "eos_token_id", None)
        if ids is not None:
            found.update([ids] if isinstance(ids, int) else ids)
    return found


def _kv_bytes_per_token(config: object, model: nn.Module) -> int:
    text = config.get_text_config()  # type: ignore[attr-defined]
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * width * next(model.parameters()).element_size()
