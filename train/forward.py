"""Score a pack: log-probs and entropies of the tokens that the loss touches, by one forward pass of a model.

The same function serves current, old and reference log-probs, and both forms of a pack. Rows are padded on the right,
and attention is causal, so no token of a row can see the padding: no attention mask is passed, which keeps the fast
causal kernels. A pack with branches is one sequence, in which each token attends to its path
(``packing/attention.py``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels.logprob_head import LogProbOutput
from ..kernels.tree_layout import TreeLayout
from .packed import I64, PackedBatch
from .packing.attention import layout_of, path_mask, takes_trees

# Shapes: N tokens of the pack, B rows (1 with branches), T tokens of the longest row (N), M scored tokens


def score(model: Any, pack: PackedBatch, device: torch.device | str) -> tuple[I64, Tensor, Tensor]:
    """``(index_M, log_probs_M, entropy_M)`` of the tokens that have a weight in ``pack``.

    Args:
        model: a causal language model with ``add_logprob_head``, wrapped or not.
        pack: rows or trees; for trees the model has been given to ``use_tree_attention``.
        device: where the model's inputs go.

    Returns:
        index_M: positions in the pack, int64.
        log_probs_M: log-prob of each token given its path, in nats, at the head's temperature; float32, or float64 from
            a model in float64.
        entropy_M: entropy of the distribution each token was drawn from, in nats, likewise.

    Raises:
        ValueError: the pack has branches, and the model doesn't know of trees.
    """
    index_M, outputs = score_all(model, pack, device)
    assert outputs.log_probs is not None and outputs.entropy is not None
    return index_M, outputs.log_probs, outputs.entropy


def score_all(
    model: Any, pack: PackedBatch, device: torch.device | str, layout: TreeLayout | None = None
) -> tuple[I64, LogProbOutput]:
    """The same with all that the model's head says, values included where it has a value head.

    ``layout``: what each token of a pack with branches sees, if not its path; for a test of the model.
    """
    index_M = np.flatnonzero(pack.scored)

    def to_device(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    trees: dict[str, Any] = {}
    if is_rows(pack):
        ids_BT, pos_BT, row_N, start_N = _pad(pack)
        pred_M = row_N[index_M] * ids_BT.shape[1] + pack.pred[index_M] - start_N[index_M]
    elif takes_trees(model):
        ids_BT, pos_BT, pred_M = pack.ids[None], pack.pos[None], pack.pred[index_M]
        layout = layout_of(pack) if layout is None else layout
        trees = {"attention_mask": path_mask(layout).to(device), "tree": layout}
    else:
        raise ValueError("the pack has branches, but the model doesn't know of trees; call use_tree_attention first")
    outputs = model(
        input_ids=to_device(ids_BT),
        position_ids=to_device(pos_BT),
        pred=to_device(pred_M),
        targets=to_device(pack.ids[index_M]),
        logprob_head=True,
        **trees,
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


def is_rows(pack: PackedBatch) -> bool:
    """Whether every tree of a pack is a single path."""
    index_N = np.arange(len(pack))
    return bool(np.all((pack.pred == index_N - 1) | (pack.pred < 0)))


def _pad(pack: PackedBatch) -> tuple[I64, I64, I64, I64]:
    """Ids and positions as (B, T), and the row and the row's start of every token of the pack, (N,)."""
    spans = np.array(pack.trees, np.int64).reshape(-1, 2)
    starts, lengths = spans[:, 0], spans[:, 1] - spans[:, 0]
    row_N, start_N = np.repeat(np.arange(len(spans)), lengths), np.repeat(starts, lengths)
    column_N = np.arange(len(pack)) - start_N
    width = int(lengths.max())
    ids_BT = np.zeros((len(spans), width), np.int64)
    ids_BT[row_N, column_N] = pack.ids
    # Positions go on through the padding: a jump would look like a second sequence in the row and cost a mask.
    last_B1 = pack.pos[spans[:, 1] - 1][:, None]
    pos_BT = last_B1 + np.arange(width) - (lengths[:, None] - 1)
    pos_BT[row_N, column_N] = pack.pos
    return ids_BT, pos_BT, row_N, start_N
