"""The embedded engine: continuous batching on any causal LM of transformers, in process, on a CPU or a GPU.

    submit ──> queue ──> prefill (once per context, several contexts a forward) ──> slots 0..n-1 ──> Completion
                 ^  └─────── what is kept of its tree, but for the last token ────────^  │        │
                 │                                                    one forward a step ┘        └──> kept until the
            find what is kept <───────────────────────────────────────────────────────────────────     tree's release

The forward is the model's own; only where keys and values lie and how one new token attends to them is ours
(``slots.py``). No step computes a padding row: the slot of a sequence that ended goes to the next one in the queue,
and when the queue is empty the last live row moves into it. Everything but KV and mask lives on the host in NumPy
arrays, and a step waits for the device once.

A request of a tree finds what its predecessors computed (``prefixes.py``) and prefills the rest only. When just the
last token is missing, as after any segment, there is no prefill: the decode step reads that token as it would have.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import ConfigError, RunError
from ..records import Ids, Stop
from .limits import Limits, configured_eos, context_limit, kv_bytes_per_token
from .plain_step import plain_step
from .prefill import Prefix, Unfinished, prefill
from .prefixes import Layers, PrefixCache, common_length
from .protocol import Completion, Request
from .rows import Call, Rows
from .sampling import draw
from .slots import SLOT_ATTENTION, SlotCache, UnsupportedAttention
from .weights import load_complete

# Shapes: N rows sampled, n live slots, V vocabulary, L columns

_PREFILL_TOKENS = 8192
_PREFILL_AHEAD = 8
_ORDER_EVERY = 8
_STANDARD = frozenset({"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"})


class TransformersEngine:
    """Decodes requests on ``model``; implements ``Engine`` and ``KeepsPrefixes``."""

    def __init__(
        self,
        model: nn.Module,
        eos_ids: Sequence[int],
        *,
        max_live: int = 256,
        max_context: int | None = None,
        allowed_vocab: int | None = None,
        kv_bytes: int | None = None,
        max_kept: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """``model``: a causal LM, possibly wrapped by PEFT or with a patched ``forward``; it is not copied.

        ``eos_ids``: the tokenizer's; those of the model's own configuration are added.
        ``max_live``: sequences decoded at a time. ``max_context``: longest prompt plus completion, by default the
        model's positions. ``allowed_vocab``: ids from here on are never sampled (vocabularies are padded beyond the
        tokenizer's). ``kv_bytes``: upper bound on KV memory; fewer sequences are live if it demands so.
        ``max_kept``: most tokens whose KV is kept for what may continue them, by default as many as live sequences
        can have; beyond that the longest unused go first, and what continues those is prefilled again.
        Raises ``ConfigError`` for limits that cannot work and for models whose cache is not one entry per token.
        """
        self.model = model if device is None else model.to(device)
        self.config = model.config
        self.device = next(model.parameters()).device
        token_bytes = kv_bytes_per_token(self.config, model)
        self.limits = Limits(max_live, context_limit(self.config, max_context), token_bytes, kv_bytes, max_kept)
        self.vocabulary = int(self.config.get_text_config().vocab_size)
        self.allowed_vocab = self.vocabulary if allowed_vocab is None else allowed_vocab
        if not 1 <= self.allowed_vocab <= self.vocabulary:
            raise ConfigError(f"allowed_vocab is {allowed_vocab} but the model has {self.vocabulary} ids; lower it")
        self.eos_ids = tuple(sorted({*eos_ids, *configured_eos(model)}))
        self.policy_version = 0
        self._own_attention = bool(getattr(model, "_supports_attention_backend", True))
        self._look_at_model()
        self._queue: deque[Call] = deque()
        self._waiting: Counter[bytes] = Counter()
        self._prefixes: dict[bytes, Prefix] = {}
        self._kept = PrefixCache()
        self._reading: dict[bytes, int] = {}
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

    @property
    def kv_tokens(self) -> int:
        """Tokens whose KV is held now: of live sequences, of contexts about to be live, and kept of finished ones."""
        waiting = sum(prefix.layers[0][0].shape[1] for prefix in self._prefixes.values())
        return self._rows.tokens + waiting + self._kept.tokens

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests in order. Raises ``ConfigError`` for a request that can never run."""
        for request in requests:
            self.limits.check(request)
        if not self.busy:
            self._look_at_model()
        for request in requests:
            call = Call(request, np.ascontiguousarray(request.context, np.int32).tobytes())
            self._queue.append(call)
            self._waiting[call.key] += 1
            if request.tree is not None and request.keep != 0:
                self._kept.open(request.tree)

    def step(self) -> list[Completion]:
        """Admit what fits, then decode one token of every live sequence; a new sequence gets two."""
        finished: list[Completion] = []
        self._reading.clear()
        with self._inference():
            self._admit(finished)
            if self._rows.live:
                self._decode(finished)
        self._rest()
        return finished

    def release(self, trees: Sequence[int]) -> None:
        """Nothing will continue these trees any more: forget what is kept of them. Unknown ones are ignored."""
        self._kept.release(trees)
        self._rest()

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
        self._kept.clear()
        self._slots = None

    def _rest(self) -> None:
        if not self.busy and not self._kept.in_use:
            # the trainer wants the memory between two rollouts
            self._slots = None
            self._rows.reset()

    # ------------------------------------------------------------------------------------------------ admission

    def _admit(self, finished: list[Completion]) -> None:
        rows = self._rows
        while self._queue:
            longest = self._longest_end()
            self._kept.bound(self.limits.kept(longest))
            wanted = self.limits.rows(longest, self._kept.in_use)
            calls = self._take(wanted - rows.live)
            if not calls:
                break
            slots = rows.admit(calls)
            self._fill(slots, calls)
            self._reading.update((c.key, int(rows.record[s])) for c, s in zip(calls, slots, strict=True) if c.kept)
            begun = [(slot, call) for slot, call in zip(slots, calls, strict=True) if call.kept is None]
            logits_N = [self._prefixes[call.key].logits_V for _, call in begun]
            for call in calls:
                call.kept = None
                self._forget(call.key)
            if begun:
                self._accept(np.asarray([slot for slot, _ in begun]), torch.stack(logits_N), finished)
        source, target = rows.close_holes()
        if source and self._slots is not None:
            self._slots.move(source, target, int(rows.length[rows.record[target]].max()))

    def _longest_end(self) -> int:
        """Positions the longest sequence may come to; unknown, 0, when nothing depends on it."""
        if self.limits.kv_bytes is None:
            return 0
        return max(max(call.end for call in self._queue), self._rows.longest_end())

    def _rows_wanted(self) -> int:
        return min(self._rows.used + len(self._queue), self.limits.max_live)

    def _take(self, room: int) -> list[Call]:
        """Up to ``room`` calls, soonest first, with the KV of their contexts at hand."""
        calls: list[Call] = []
        passed: list[Call] = []
        reading = set(self._reading)
        while self._queue and len(calls) < room:
            call = self._queue[0]
            if call.key in reading:
                # a sibling is about to read the last token of their context
                passed.append(self._queue.popleft())
                continue
            if call.key not in self._prefixes:
                found = self._kept.find(call.request.tree, call.request.context)
                if found.length >= max(call.context - 1, 1):
                    call.kept = self._kept.read(found, call.context - 1)
                    reading.add(call.key)
                else:
                    self._prefill(room - len(calls))
            calls.append(self._queue.popleft())
        self._queue.extendleft(reversed(passed))
        return calls

    def _fill(self, slots: Sequence[int], calls: Sequence[Call]) -> None:
        """Copy the KV of each call's context into its slot."""
        by_context: dict[bytes, tuple[Layers, list[int]]] = {}
        for call, slot in zip(calls, slots, strict=True):
            layers = self._prefixes[call.key].layers if call.kept is None else call.kept
            by_context.setdefault(call.key, (layers, []))[1].append(slot)
        if self._slots is None:
            self._slots = SlotCache(next(iter(by_context.values()))[0], self.limits.max_live)
        self._slots.reserve(self._rows_wanted(), max(call.context for call in calls) + 1)
        for layers, targets in by_context.values():
            self._slots.place(targets, layers)

    def _forget(self, key: bytes) -> None:
        self._waiting[key] -= 1
        if not self._waiting[key]:
            del self._waiting[key]
            self._prefixes.pop(key, None)

    def _prefill(self, room: int) -> None:
        """Compute the next contexts of the queue: those that get a slot now, and a few to come."""
        chosen: dict[bytes, tuple[Call, Unfinished]] = {}
        most_kept = longest_rest = ahead = 0
        for index, call in enumerate(self._queue):
            if call.key in self._prefixes or call.key in chosen:
                continue
            ahead += index >= room
            if ahead > _PREFILL_AHEAD and chosen:
                break
            request = call.request
            found = self._kept.find(request.tree, request.context)
            if found.length >= max(call.context - 1, 1) or self._shares_more(request, found.length, chosen):
                continue
            most_kept, longest_rest = max(most_kept, found.length), max(longest_rest, call.context - found.length)
            if chosen and (most_kept + longest_rest) * (len(chosen) + 1) > _PREFILL_TOKENS:
                break
            layers = self._kept.read(found, found.length) if found.length else []
            chosen[call.key] = call, Unfinished(request.context, found.length, layers)
        todo = [one for _, one in chosen.values()]
        done = prefill(partial(self._forward, None), todo, self.allowed_vocab, self.device)
        for (call, one), prefix in zip(chosen.values(), done, strict=True):
            call.prefilled = call.context - one.kept
            self._prefixes[call.key] = prefix
            self._keep(call.request, call.request.context, prefix.layers)

    def _shares_more(self, request: Request, found: int, chosen: Mapping[bytes, tuple[Call, Unfinished]]) -> bool:
        """Whether a context of the same tree that is about to be computed begins with more of this one than is kept."""
        others = (call.request for call, _ in chosen.values() if call.request.tree == request.tree)
        return request.tree is not None and any(common_length(o.context, request.context) > found for o in others)

    def _keep(self, request: Request, ids: Ids, layers: Layers) -> None:
        if request.tree is not None:
            self._kept.add(request.tree, ids[: request.keep], layers)

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
        ids_n1, position_n1 = self._to_device(rows.last[record_n][:, None]), self._to_device(position_n[:, None])
        logits_n1V = self._decode_step(ids_n1, position_n1, mask_n11L, slots)
        rows.length[record_n] += 1
        self._share_reading(logits_n1V)
        self._accept(np.arange(rows.used), logits_n1V[:, -1, : self.allowed_vocab].float(), finished)

    def _decode_step(self, ids_n1: Tensor, position_n1: Tensor, mask_n11L: Tensor, slots: SlotCache) -> Tensor:
        """Logits (n, 1, V) of one token of every row."""
        if self._plain is not None:
            return self._plain(ids_n1, position_n1, mask_n11L, slots)
        inputs = {"attention_mask": mask_n11L, "position_ids": position_n1, "past_key_values": slots}
        try:
            return self._forward(SLOT_ATTENTION if self._own_attention else None, input_ids=ids_n1, **inputs)
        except UnsupportedAttention:
            self._own_attention = False  # what the failed forward wrote is written again, with the same values
            return self._forward(None, input_ids=ids_n1, **inputs)

    def _share_reading(self, logits_n1V: Tensor) -> None:
        """Give the siblings of a row that has just read the end of their context what they need to begin."""
        for key, record in self._reading.items():
            if self._waiting[key]:
                slot = int(np.flatnonzero(self._rows.record[: self._rows.used] == record)[0])
                length = int(self._rows.length[record])
                layers = [(keys[:, :length].clone(), values[:, :length].clone()) for keys, values in self._row(slot)]
                self._prefixes[key] = Prefix(layers, logits_n1V[slot, -1, : self.allowed_vocab].float().clone())

    def _row(self, slot: int) -> Layers:
        assert self._slots is not None
        return [(layer.keys[slot], layer.values[slot]) for layer in self._slots.layers]

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
        length = int(self._rows.length[self._rows.record[slot]])
        call, ids, logp = self._rows.release(slot)
        if call.request.tree is not None and self._slots is not None:
            self._keep(call.request, np.concatenate([call.request.context, ids])[:length], self._row(slot))
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
        self._plain = plain_step(self.model) if self._own_attention else None

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
