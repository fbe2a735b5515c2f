"""Score a pack: log-probs and entropies of the tokens that the loss touches, by one forward pass of a model.

The same function serves current, old and reference log-probs. Rows are padded on the right, and attention is causal,
so no token of a row can see the padding: no attention mask is passed, which keeps the fast causal kernels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels.logprob_head import LogProbOutput
from .packed import I64, PackedBatch

# Shapes: N tokens of the pack, B rows, T tokens of the longest row, M scored tokens


def score(model: Any, pack: PackedBatch, device: torch.device | str) -> tuple[I64, Tensor, Tensor]:
    """``(index_M, log_probs_M, entropy_M)`` of the tokens that have a weight in ``pack``.

    Args:
        model: a causal language model with ``add_logprob_head``, wrapped or not.
        pack: in row layout (every row a single path).
        device: where the model's inputs go.

    Returns:
        index_M: positions in the pack, int64.
        log_probs_M: log-prob of each token given its path, float32, in nats, at the head's temperature.
        entropy_M: entropy of the distribution each token was drawn from, float32, in nats.

    Raises:
        ValueError: the pack has branches.
    """
    index_M, outputs = score_all(model, pack, device)
    assert outputs.log_probs is not None and outputs.entropy is not None
    return index_M, outputs.log_probs, outputs.entropy


def score_all(model: Any, pack: PackedBatch, device: torch.device | str) -> tuple[I64, LogProbOutput]:
    """The same with all that the model's head says, values included where it has a value head."""
    ids_BT, pos_BT, row_N, start_N = _pad(pack)
    index_M = np.flatnonzero(pack.scored)
    pred_M = row_N[index_M] * ids_BT.shape[1] + pack.pred[index_M] - start_N[index_M]

    def to_device(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    outputs = model(
        input_ids=to_device(ids_BT),
        position_ids=to_device(pos_BT),
        pred=to_device(pred_M),
        targets=to_device(pack.ids[index_M]),
        logprob_head=True,
    )
    return index_M, outputs


@torch.no_grad()
def with_old_log_probs(model: Any, pack: PackedBatch, device: torch.device | str) -> PackedBatch:
    """The pack with ``old_logp`` scored by ``model`` in place of what the engine reported.

    For objectives with ``old: recompute``: call it on every pack of a generation before the first update.
    """
    index_M, log_probs_M, _ = score(model, pack, device)
    old_logp = np.full(len(pack), np.nan, np.float32)
    old_logp[index_M] = log_probs_M.float().cpu().numpy()
    return replace(pack, old_logp=old_logp)


def _pad(pack: PackedBatch) -> tuple[I64, I64, I64, I64]:
    """Ids and positions as (B, T), and the row and the row's start of every token of the pack, (N,)."""
    spans = np.array(pack.trees, np.int64).reshape(-1, 2)
    starts, lengths = spans[:, 0], spans[:, 1] - spans[:, 0]
    row_N, start_N = np.repeat(np.arange(len(spans)), lengths), np.repeat(starts, lengths)
    column_N = np.arange(len(pack)) - start_N
    if not np.array_equal(pack.pred, np.where(column_N == 0, -1, np.arange(len(pack)) - 1)):
        raise ValueError("the pack has branches, but only packs in row layout can be padded; build it with to_packs")

    width = int(lengths.max())
    ids_BT = np.zeros((len(spans), width), np.int64)
    ids_BT[row_N, column_N] = pack.ids
    # Positions go on through the padding: a jump would look like a second sequence in the row and cost a mask.
    last_B1 = pack.pos[spans[:, 1] - 1][:, None]
    pos_BT = last_B1 + np.arange(width) - (lengths[:, None] - 1)
    pos_BT[row_N, column_N] = pack.pos
    return ids_BT, pos_BT, row_N, start_N
