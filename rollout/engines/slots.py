"""The KV cache of the embedded engine, and the attention that reads it.

Slot s is row s of every buffer; live sequences occupy slots 0..n-1, each left-aligned, so the entry of position p lies
in column p. One decode step writes one column per row in place and reads, per chunk of neighbouring rows, no further
than the longest row of the chunk. Lengths are long-tailed, so rows are kept roughly sorted by length: a chunk of
short rows must not pay for a long one (``order_by_length``).

The attention treats the query heads that share a KV head as that many queries. Keys and values are then read once
and as they lie; repeating them per query head, as the ordinary path does under an explicit mask, costs several
times the whole step on a CPU.
"""

from __future__ import annotations

from contextvars import ContextVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

from .prefixes import Layers

# Shapes: S slots, n live rows, H KV heads, L columns, D head width, P context length, Q query heads

SLOT_ATTENTION = "laconic_slots"
"""Name under which ``slot_attention`` is registered with transformers."""
_BLOCK = 128
_VIEW = 16
_CHUNKING = {"cpu": (32, 1 << 18), "cuda": (128, 1 << 26)}
"""By device: rows of a chunk, and the bytes that can be read in the time one more attention call takes."""
_IGNORED = frozenset(
    {"position_ids", "use_cache", "output_attentions", "output_hidden_states", "is_causal", "cache_position"}
    # a window is no shorter than the engine's context, or its constructor has refused the model
    | {"sliding_window"}
)
_CHUNKS: ContextVar[list[tuple[int, int, int]]] = ContextVar("laconic_slot_chunks")


class UnsupportedAttention(Exception):
    """The model's attention needs something ``slot_attention`` does not do (soft caps, sinks, a bias)."""


class SlotCache(Cache):
    """Keys and values of all live sequences, preallocated, grown in blocks, bounded by ``max_slots`` rows."""

    def __init__(self, like: Layers, max_slots: int) -> None:
        """``like``: any KV of the model; only shapes, type and device count."""
        super().__init__(layers=[SlotLayer(*layer) for layer in like])
        keys = like[0][0]
        self.max_slots = max_slots
        self.chunk_rows, call_bytes = _CHUNKING.get(keys.device.type, _CHUNKING["cuda"])
        self.chunk_tokens = call_bytes // max(sum(x.shape[0] * x.shape[2] * x.itemsize for x in pair) for pair in like)
        self.mask_SL = torch.full((0, 0), -torch.inf, dtype=keys.dtype, device=keys.device)

    def reserve(self, slots: int, columns: int) -> None:
        """Make room for ``slots`` rows of ``columns`` positions; what those rows hold stays.

        Buffers that must grow keep only the rows wanted: when the queue is empty and few long sequences are left, a new
        block of columns is cheap.
        """
        have_slots, have_columns = self.mask_SL.shape
        if slots <= have_slots and columns <= have_columns:
            return
        slots = min(self.max_slots, _round_up(slots, 16))
        columns = max(have_columns, _round_up(columns, _BLOCK))
        mask_SL = self.mask_SL.new_full((slots, columns), -torch.inf)
        mask_SL[:have_slots, :have_columns] = self.mask_SL[:slots]
        self.mask_SL = mask_SL
        for layer in self.layers:
            layer.reserve(slots, columns)

    def place(self, slots: list[int], layers: Layers) -> None:
        """Copy the KV of a context into ``slots``."""
        length = layers[0][0].shape[1]
        rows = torch.tensor(slots, device=self.mask_SL.device)
        for layer, (keys_HPD, values_HPD) in zip(self.layers, layers, strict=True):
            layer.keys[rows, :, :length] = keys_HPD
            layer.values[rows, :, :length] = values_HPD
        self.mask_SL[rows, length:] = -torch.inf
        self.mask_SL[rows, :length] = 0

    def move(self, source: list[int], target: list[int], length: int) -> None:
        """Copy the first ``length`` columns of the rows ``source`` to the rows ``target``, as if all at once."""
        source_rows = torch.tensor(source, device=self.mask_SL.device)
        target_rows = torch.tensor(target, device=self.mask_SL.device)
        for layer in self.layers:
            for buffer_SHLD in (layer.keys, layer.values):
                buffer_SHLD[:, :, :length].index_copy_(0, target_rows, buffer_SHLD[:, :, :length][source_rows])
        self.mask_SL.index_copy_(0, target_rows, self.mask_SL[source_rows])

    def begin_step(self, position_n: NDArray[np.int64]) -> Tensor:
        """Prepare a step that writes row i at column ``position_n[i]``; returns the additive mask, (n, 1, 1, L)."""
        count, view = len(position_n), _round_up(int(position_n.max()) + 1, _VIEW)
        write_n = torch.from_numpy(position_n).to(self.mask_SL.device)
        self.mask_SL[:count].scatter_(1, write_n[:, None], 0.0)
        indices: dict[int, Tensor] = {}
        for layer in self.layers:
            heads = layer.keys.shape[1]
            if heads not in indices:
                row_nH = np.arange(count * heads).reshape(count, heads) * self.mask_SL.shape[1] + position_n[:, None]
                indices[heads] = torch.from_numpy(row_nH.reshape(-1)).to(self.mask_SL.device)
            layer.rows, layer.view, layer.write = count, view, indices[heads]
        _CHUNKS.set(self._chunks(position_n))
        return self.mask_SL[:count, None, None, :view]

    def _chunks(self, position_n: NDArray[np.int64]) -> list[tuple[int, int, int]]:
        """``(first row, stop row, columns to read)``; neighbours of similar length share a call."""
        edges = np.arange(0, len(position_n), self.chunk_rows)
        chunks: list[tuple[int, int, int]] = []
        for start, longest in zip(edges.tolist(), np.maximum.reduceat(position_n, edges).tolist(), strict=True):
            stop, length = min(start + self.chunk_rows, len(position_n)), _round_up(longest + 1, _VIEW)
            if chunks:
                first, rows, columns = chunks[-1][0], start - chunks[-1][0], chunks[-1][2]
                both = max(columns, length)
                if rows * (both - columns) + (stop - start) * (both - length) <= self.chunk_tokens:
                    chunks[-1] = (first, stop, both)
                    continue
            chunks.append((start, stop, length))
        return chunks

    def order_by_length(self, length_n: NDArray[np.int64]) -> tuple[list[int], list[int]]:
        """Moves (source rows, target rows) after which long rows share chunks; empty when little would be gained."""
        count, rows = len(length_n), self.chunk_rows
        if count <= rows:
            return [], []
        edges = np.arange(0, count, rows)
        sizes = np.diff(np.append(edges, count))
        descending_n = np.argsort(-length_n, kind="stable")
        now = int(np.maximum.reduceat(length_n, edges) @ sizes)
        best = int(length_n[descending_n[edges]] @ sizes)
        if now < 1.15 * best:
            return [], []
        chunk_n = np.arange(count) // rows
        wanted_n = np.empty(count, np.int64)
        wanted_n[descending_n] = chunk_n
        # places that a row leaves, in chunk order, are taken by the leaving rows in the order of their new chunks
        leaving = np.flatnonzero(wanted_n != chunk_n)
        source = leaving[np.argsort(wanted_n[leaving], kind="stable")]
        return source.tolist(), leaving.tolist()


class SlotLayer(CacheLayerMixin):
    """One layer's buffers of a ``SlotCache``."""

    is_sliding = False

    def __init__(self, keys_HPD: Tensor, values_HPD: Tensor) -> None:
        super().__init__()
        self.keys = keys_HPD.new_zeros((0, keys_HPD.shape[0], 0, keys_HPD.shape[2]))
        self.values = values_HPD.new_zeros((0, values_HPD.shape[0], 0, values_HPD.shape[2]))
        self.is_initialized = True
        self.rows = self.view = 0
        self.write: Tensor | None = None

    def reserve(self, slots: int, columns: int) -> None:
        """Grow both buffers to ``slots`` rows of ``columns`` positions."""
        for name in ("keys", "values"):
            old_SHLD = getattr(self, name)
            # Zeros, never uninitialised: a masked entry has weight 0, and 0 * NaN is NaN
            new_SHLD = old_SHLD.new_zeros((slots, old_SHLD.shape[1], columns, old_SHLD.shape[3]))
            new_SHLD[: old_SHLD.shape[0], :, : old_SHLD.shape[2]] = old_SHLD[:slots]
            setattr(self, name, new_SHLD)

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Write one column per live row; returns what the step may read, (n, H, L, D) views."""
        key_states = key_states.to(self.keys.dtype)  # under autocast they come in float32
        self.keys.view(-1, self.keys.shape[3]).index_copy_(0, self.write, key_states.flatten(0, 2))
        self.values.view(-1, self.values.shape[3]).index_copy_(0, self.write, value_states.flatten(0, 2))
        return self.keys[: self.rows, :, : self.view], self.values[: self.rows, :, : self.view]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the buffers exist from the start."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """``(columns read, offset)``."""
        return self.view, 0

    def get_seq_length(self) -> int:
        """Columns read before the one being written, as far as one number can say it."""
        return self.view - 1

    def get_max_length(self) -> int:
        """Columns the buffers hold now."""
        return self.keys.shape[2]

    get_max_cache_shape = get_max_length  # the name transformers had before 5.15


def slot_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention of one new token per row, in the form transformers calls it.

    Shapes: query (n, Q, 1, D), key and value (n, H, L, D), mask (n, 1, 1, L) additive; returns (n, 1, Q, D). Raises
    ``UnsupportedAttention`` for an argument it does not know.
    """
    foreign = [name for name, given in kwargs.items() if given is not None and name not in _IGNORED]
    if foreign:
        raise UnsupportedAttention(f"slot attention does not know {', '.join(foreign)}")
    count, heads, _, width = query.shape
    grouped = query.reshape(count, key.shape[1], heads // key.shape[1], width)
    chunks = [
        scaled_dot_product_attention(
            grouped[start:stop],
            key[start:stop, :, :length],
            value[start:stop, :, :length],
            attn_mask=attention_mask[start:stop, :, :, :length],
            scale=scaling,
        )
        for start, stop, length in _CHUNKS.get()
    ]
    mixed = torch.cat(chunks) if len(chunks) > 1 else chunks[0]
    return mixed.reshape(count, 1, heads, value.shape[3]), None


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


AttentionInterface.register(SLOT_ATTENTION, slot_attention)
