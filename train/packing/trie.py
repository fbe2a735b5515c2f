"""The rows of a group as one token trie, in the form that the loss knows.

    rows, sorted by their tokens ──> tokens each has in common with the row before it ──> the rest, one after another

Rows that begin alike stand next to each other once they are sorted, so what is left of each row beyond its common
prefix with the one before, written down in turn, is the trie in depth-first pre-order. Token t of row i is where the
last row above i wrote it that has no more than t tokens in common with its predecessor.

Two tokens are one if the tokens before them are, and they have the same id, policy version and behaviour log-prob.
(The position is the same anyhow.) A row that doesn't train a token goes with any that does: version and log-prob say
nothing there. Siblings that drew the same token by chance, with log-probs that differ by rounding, stay apart from
there on; so the packed loss is that of the rows exactly. Weights of the rows that train a token add up.

Shapes: B rows in order, T tokens of the longest, N tokens of the trie
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..packed import F32, I64, PackedBatch
from ..rows import Row

Bool = NDArray[np.bool_]
I32 = NDArray[np.int32]


def to_tries(rows: Sequence[Row]) -> list[PackedBatch]:
    """One trie for each group, in the order of the groups' first rows."""
    by_group: dict[int, list[Row]] = {}
    for row in rows:
        by_group.setdefault(row.group, []).append(row)
    return [to_trie(group) for group in by_group.values()]


def to_trie(rows: Sequence[Row]) -> PackedBatch:
    """The trie of some rows of one group, at least one; several trees if they don't begin with the same token."""
    tokens = _Tokens.of(rows)
    order = _sorted(tokens.ids_BT)
    tokens = tokens.in_order(order)
    trie = _Trie.of(_common(tokens.ids_BT[..., None], tokens.length_B), tokens.length_B)
    key_BT2 = tokens.behaviour(trie.node_BT)
    if not _agree(key_BT2, trie.node_BT):
        key_BT3 = np.concatenate([tokens.ids_BT[..., None], key_BT2], axis=2)
        again = _sorted(key_BT3)
        order, tokens, key_BT3 = order[again], tokens.in_order(again), key_BT3[again]
        trie = _Trie.of(_common(key_BT3, tokens.length_B), tokens.length_B)
    return _filled(trie, tokens, [rows[index] for index in order.tolist()])


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Rows padded on the right."""

    length_B: I64
    ids_BT: I32
    """-1 beyond a row's end, which is no token's id."""
    trained_BT: Bool
    version_BT: I32
    logp_BT: F32

    @classmethod
    def of(cls, rows: Sequence[Row]) -> _Tokens:
        length_B = np.array([len(row) for row in rows])
        inside_BT = np.arange(length_B.max()) < length_B[:, None]
        ids_BT, version_BT = np.full(inside_BT.shape, -1, np.int32), np.zeros(inside_BT.shape, np.int32)
        logp_BT = np.full(inside_BT.shape, np.nan, np.float32)
        ids_BT[inside_BT] = np.concatenate([row.ids for row in rows])
        version_BT[inside_BT] = np.concatenate([row.policy_version for row in rows])
        logp_BT[inside_BT] = np.concatenate([row.old_logp for row in rows])
        return cls(length_B, ids_BT, np.isfinite(logp_BT), version_BT, logp_BT)

    def in_order(self, order_B: I64) -> _Tokens:
        return _Tokens(
            self.length_B[order_B],
            self.ids_BT[order_B],
            self.trained_BT[order_B],
            self.version_BT[order_B],
            self.logp_BT[order_B],
        )

    def behaviour(self, node_BT: I32) -> NDArray[np.int32]:
        """Version and log-prob (as bits) of each token (B, T, 2); where it isn't trained, those of a row that does."""
        both_BT2 = np.stack([self.version_BT, self.logp_BT.view(np.int32)], axis=2)
        both_BT2[~self.trained_BT] = 0
        trained_M = node_BT[self.trained_BT]
        first_N2 = np.zeros((int(node_BT.max(initial=0)) + 1, 2), np.int32)
        first_N2[trained_M[::-1]] = both_BT2[self.trained_BT][::-1]  # of several, the last one written stays
        free_BT = ~self.trained_BT & (self.ids_BT >= 0)
        both_BT2[free_BT] = first_N2[node_BT[free_BT]]
        return both_BT2


@dataclass(frozen=True, slots=True)
class _Trie:
    """Where each token of each row stands in the trie."""

    node_BT: I32
    """Its index; -1 beyond a row's end."""
    own_BT: Bool
    """Whether this row is the one that wrote it."""
    sub_end_N: I64

    @classmethod
    def of(cls, common_B: I64, length_B: I64) -> _Trie:
        rows, column_T = len(length_B), np.arange(length_B.max(), dtype=np.int32)
        first_B = np.concatenate([[0], np.cumsum(length_B - common_B)]).astype(np.int32)
        inside_BT = column_T < length_B[:, None]
        begins_BT = common_B[:, None] <= column_T
        row_B1 = np.arange(rows, dtype=np.int32)[:, None]
        writer_BT = np.maximum.accumulate(np.where(begins_BT, row_B1, np.int32(0)), axis=0)
        offset_B = first_B[:-1] - common_B.astype(np.int32)
        node_BT = np.where(inside_BT, offset_B[writer_BT] + column_T, np.int32(-1))
        # A token's subtree ends where a later row begins that doesn't have it in common with its predecessor.
        later_BT = np.minimum.accumulate(np.where(begins_BT, row_B1, np.int32(rows))[::-1], axis=0)[::-1]
        last = np.full((1, len(column_T)), rows, np.int32)
        own_BT = inside_BT & begins_BT
        sub_end_N = first_B[np.concatenate([later_BT[1:], last])[own_BT]].astype(np.int64)
        return cls(node_BT, own_BT, sub_end_N)


def _sorted(key_BTK: NDArray[np.int32]) -> I64:
    """The order of the rows by their tokens. Bytes of big-endian numbers compare like the numbers."""
    keys = [row.tobytes() for row in (key_BTK.astype(np.int64) + 2**31).astype(">u4")]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def _common(key_BTK: NDArray[np.int32], length_B: I64) -> I64:
    """How many tokens each row has in common with the one before it."""
    differ_BT = (key_BTK[1:] != key_BTK[:-1]).any(axis=2)
    common_B = np.where(differ_BT.any(axis=1), differ_BT.argmax(axis=1), length_B[1:])
    return np.concatenate([[0], common_B]).astype(np.int64)


def _agree(key_BT2: NDArray[np.int32], node_BT: I32) -> bool:
    """Whether all rows say the same of every token of the trie."""
    inside_BT = node_BT >= 0
    said, node = key_BT2[inside_BT], node_BT[inside_BT]
    one_N2 = np.zeros((int(node.max(initial=0)) + 1, 2), np.int32)
    one_N2[node] = said
    return bool(np.array_equal(one_N2[node], said))


def _filled(trie: _Trie, tokens: _Tokens, rows: Sequence[Row]) -> PackedBatch:
    """The pack, with the weights of ``rows`` (in the order of ``tokens``) added up."""
    count, own_BT, trained_BT = len(trie.sub_end_N), trie.own_BT, tokens.trained_BT
    pred_BT = np.full(trie.node_BT.shape, -1, np.int64)
    pred_BT[:, 1:] = trie.node_BT[:, :-1]
    node_M = trie.node_BT[trained_BT]
    trained_in_row = trained_BT.sum(1)
    advantage_M = np.concatenate([row.advantage[row.trained] for row in rows])
    weight_M, nll_M = (
        np.repeat(values, trained_in_row) for values in ([r.weight for r in rows], [r.nll for r in rows])
    )

    def summed(values_M: NDArray[np.float64]) -> F32:
        return np.bincount(node_M, values_M, minlength=count).astype(np.float32)

    old_logp, version = np.full(count, np.nan, np.float32), tokens.version_BT[own_BT].astype(np.int64)
    old_logp[node_M], version[node_M] = tokens.logp_BT[trained_BT], tokens.version_BT[trained_BT]
    weight = summed(weight_M)
    return PackedBatch(
        ids=tokens.ids_BT[own_BT].astype(np.int64),
        pos=np.nonzero(own_BT)[1],
        sub_end=trie.sub_end_N,
        pred=pred_BT[own_BT],
        old_logp=old_logp,
        engine_logp=old_logp,
        ref_logp=np.full(count, np.nan, np.float32),
        w_pos=summed(np.maximum(weight_M * advantage_M, 0)),
        w_neg=summed(np.minimum(weight_M * advantage_M, 0)),
        w_kl=weight,
        w_ent=weight,
        w_nll=summed(nll_M),
        group=np.full(count, rows[0].group),
        policy_version=version,
    )
