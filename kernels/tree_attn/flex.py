"""Tree attention through torch's FlexAttention, compiled. The block mask comes from the layout's tile lists, so the
(N, N) mask that ``create_block_mask`` would evaluate is never made.

Shapes: N tokens, Q tiles of queries, K tiles of keys
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from ..tree_layout import I32, TreeLayout
from .tables import once

BLOCK = 128
"""What FlexAttention's kernels expect."""


def attention(q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout, scale: float, *, compiled: bool = True) -> Tensor:
    """By FlexAttention; not compiled it makes the whole score matrix and has no backward pass on a CPU."""
    if not len(layout):
        return torch.zeros_like(q) + 0 * (k.sum() + v.sum())
    run = _compiled() if compiled else flex_attention
    heads_first = (x.transpose(0, 1)[None] for x in (q, k, v))
    out: Tensor = run(
        *heads_first, block_mask=block_mask(layout, q.device), scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out[0].transpose(0, 1)


@cache
def _compiled() -> Any:
    # Packs differ in length. Beyond its limit of recompilations torch raises for a full graph; else it would go on
    # uncompiled, with all scores in memory.
    return torch.compile(flex_attention, dynamic=True, fullgraph=True)


def block_mask(layout: TreeLayout, device: torch.device | str, block: int = BLOCK) -> BlockMask:
    """The mask as FlexAttention takes it; made once."""

    def make() -> BlockMask:
        tiles = layout.tiles(block, block)
        sub_end = torch.from_numpy(layout.sub_end.astype(np.int32)).to(device)

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (key <= query) & (query < sub_end[key])

        full, partial = _lists(tiles.start, tiles.full, tiles.key_tile), _lists(tiles.full, tiles.stop, tiles.key_tile)
        tables = [torch.from_numpy(array)[None, None].to(device) for array in (*partial, *full)]
        length = len(layout)
        return BlockMask.from_kv_blocks(*tables, BLOCK_SIZE=block, mask_mod=sees, seq_lengths=(length, length))

    made: BlockMask = once(layout, ("flex", str(device), block), make)
    return made


def _lists(start: I32, stop: I32, key_tile: I32) -> tuple[I32, I32]:
    """Numbers of key tiles (Q,), and the key tiles in rows filled up with 0 (Q, K): CSR made rectangular."""
    count = stop - start
    column = np.arange(len(count))
    filled = column[None, :] < count[:, None]
    rows = np.zeros((len(count), len(count)), np.int32)
    rows[filled] = key_tile[(start[:, None] + column[None, :])[filled]]
    return count, rows
