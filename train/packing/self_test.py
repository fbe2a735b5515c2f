"""Does the loaded model see a packed tree as it sees the rows? Asked once, before anything is trained.

A small tree of random tokens is scored as a pack and row by row; both must give the same log-probs. What blindness to
the tree costs is measured too: the same pack once more, where attention is told that each token sees all before it.
Tokens, positions and the places that log-probs are read off stay, so nothing but the branches in sight makes the
difference, however little that is. The log-probs pass if they are at least ``MARGIN`` times closer to the rows than the
blind ones. So the test needs no tolerance of its own for every precision, and a model that can't tell the difference
passes only with results that are equal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...kernels.tree_layout import TreeLayout
from ..forward import score, score_all
from ..rows import Row, to_packs
from .attention import use_tree_attention
from .trie import to_trie

MARGIN = 10.0


def why_it_fails(model: Any, device: torch.device | str, vocabulary: int) -> str | None:
    """Prepare ``model`` for trees and try it on one, of tokens below ``vocabulary``; why it can't, None if it can.

    ``model``: a causal language model with ``add_logprob_head``. One that can't is left as it was.
    """
    training, attention = model.training, model.config._attn_implementation
    model.eval()  # dropout would make the sides differ
    try:
        use_tree_attention(model)
        reason = _judge(*_distances(model, device, vocabulary))
    except Exception as error:
        # Whatever a foreign model's forward makes of the tree: it can't be used, and the run goes on with rows.
        reason = f"a trial with a small tree ended in {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    finally:
        model.train(training)
    if reason is not None and model.config._attn_implementation != attention:
        model.set_attn_implementation(attention)
    return reason


def _judge(own: float, other: float) -> str | None:
    """Why log-probs at a distance ``own`` from the rows' may not pass, where blindness to branches gives ``other``."""
    if own * MARGIN <= other:
        return None
    return (
        f"its log-probs of a small packed tree differ from those of its rows by {own:.2g} nats in the mean, and by "
        f"{other:.2g} if all branches are in sight: its attention ignores which tokens belong to which"
    )


@torch.no_grad()
def _distances(model: Any, device: torch.device | str, vocabulary: int) -> tuple[float, float]:
    """Mean difference from the rows' log-probs, of the packed tree and of the same with all branches in sight."""
    rows = _small_tree(vocabulary)
    tree = to_trie(rows)
    count = len(tree)
    blind = TreeLayout.of(tree.pos, np.full(count, count), np.arange(count) - 1)
    by_name: dict[float, float] = {}
    for pack in to_packs(rows, 1):
        index_M, log_probs_M, _ = score(model, pack, device)
        by_name |= dict(zip(pack.old_logp[index_M].tolist(), log_probs_M.double().tolist(), strict=True))

    def distance(layout: TreeLayout | None) -> float:
        index_M, outputs = score_all(model, tree, device, layout)
        assert outputs.log_probs is not None
        want_M = torch.tensor([by_name[name] for name in tree.old_logp[index_M].tolist()], dtype=torch.float64)
        return float((outputs.log_probs.double().cpu() - want_M).abs().mean())

    return distance(None), distance(blind)


def _small_tree(vocabulary: int) -> list[Row]:
    """A prompt of 6 tokens and four answers: two split at once, and one of these again. Log-probs name the tokens."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, vocabulary, 40)
    name = -np.arange(1, 41, dtype=np.float32)
    # Log-probs differ, so branches don't merge even if the few words of a small vocabulary coincide.
    paths = [[range(6), range(6, 14)], [range(6), range(14, 20), range(20, 27)]]
    paths += [[range(6), range(14, 20), range(27, 32)], [range(6), range(32, 40)]]
    rows = []
    for path in paths:
        index = np.concatenate([np.array(part) for part in path])
        logp = np.where(index < 6, np.float32(np.nan), name[index])
        version = np.zeros(len(index), np.int64)
        rows.append(Row(ids[index], logp, 1.0, version, np.ones(len(index)), group=0))
    return rows
