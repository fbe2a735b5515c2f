"""One forward that computes the KV of several contexts, each on top of what is kept of it.

             columns of the cache                    columns of the inputs
    row 0    [ pad | kept of context 0             ] [ pad | rest of context 0 ]
    row 1    [ kept of context 1                   ] [ rest of context 1       ]

Padding is masked and has no position; the last column of every row is the end of its context, whose logits are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from ..records import Ids
from .prefixes import Layers

# Shapes: B contexts, K kept columns, T columns of the inputs, H KV heads, D head width, V vocabulary


@dataclass(frozen=True, slots=True)
class Prefix:
    """KV of one context, ready to be copied to slots, and what comes next."""

    layers: Layers
    """Of the type that the model gives its values."""
    logits_V: Tensor
    """Float32 logits after the last token."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A context of which the first ``kept`` tokens, but not all, are computed."""

    context: Ids
    kept: int
    layers: Layers
    """KV of those; empty when there are none."""


def prefill(
    forward: Callable[..., Tensor], todo: Sequence[Unfinished], vocabulary: int, device: torch.device
) -> list[Prefix]:
    """The complete KV and the next logits of each context. ``forward`` gives logits, shape (B, 1, V)."""
    kept = max(one.kept for one in todo)
    width = max(len(one.context) - one.kept for one in todo)
    ids_BT = np.zeros((len(todo), width), np.int64)
    position_BT = np.zeros((len(todo), width), np.int64)
    mask_BL = np.zeros((len(todo), kept + width), np.int64)
    for row, one in enumerate(todo):
        rest = len(one.context) - one.kept
        ids_BT[row, width - rest :] = one.context[one.kept :]
        position_BT[row, width - rest :] = np.arange(one.kept, len(one.context))
        mask_BL[row, kept - one.kept : kept] = 1
        mask_BL[row, kept + width - rest :] = 1
    cache = _cache_of(todo, kept)
    logits_B1V = forward(
        input_ids=torch.from_numpy(ids_BT).to(device),
        attention_mask=None if mask_BL.all() else torch.from_numpy(mask_BL).to(device),
        position_ids=torch.from_numpy(position_BT).to(device),
        past_key_values=cache,
        logits_to_keep=1,
    )
    done = []
    for row, one in enumerate(todo):
        first, rest = kept - one.kept, kept + width - len(one.context) + one.kept
        both = [[_without_padding(x[row], first, kept, rest) for x in (kv.keys, kv.values)] for kv in cache.layers]
        done.append(Prefix([(keys, values) for keys, values in both], logits_B1V[row, -1, :vocabulary].float()))
    return done


def _without_padding(columns_HLD: Tensor, first: int, kept: int, rest: int) -> Tensor:
    """Columns ``first:kept`` and ``rest:``, as a copy: a view would keep the KV of the whole batch alive."""
    if first == kept:
        return columns_HLD[:, rest:].clone()
    return torch.cat([columns_HLD[:, first:kept], columns_HLD[:, rest:]], 1)


class _Layer(DynamicLayer):
    """Keeps keys in the type of the values.

    Under autocast rotary embeddings leave keys in float32: the cache would be twice as large, and attention would round
    them anew in every step.
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        return super().update(key_states.to(value_states.dtype), value_states, *args, **kwargs)


def _cache_of(todo: Sequence[Unfinished], kept: int) -> Cache:
    """A cache of ``kept`` columns with what is kept of each context at its end."""
    cache = Cache(layer_class_to_replicate=_Layer)
    model = next((one.layers for one in todo if one.layers), [])
    for index, pair in enumerate(model):
        both = []
        for which, like_HLD in enumerate(pair):
            heads, _, head_width = like_HLD.shape
            # zeros: a masked entry has weight 0, and 0 * NaN is NaN
            columns_BHKD = like_HLD.new_zeros((len(todo), heads, kept, head_width))
            for row, one in enumerate(todo):
                if one.kept:
                    columns_BHKD[row, :, kept - one.kept :] = one.layers[index][which]
            both.append(columns_BHKD)
        cache.update(both[0], both[1], index)
    return cache
