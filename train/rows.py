"""From groups to the rows of one update, and from rows to packs that fit a micro-batch.

A row is the path from the prompt to one leaf. Its sampled tokens are trained; the prompt, inserted and copied tokens
are context. A rollout of several leaves (chunks of one thought, threads) trains each of its tokens once, in the first
row that holds it. The loss of an update is the sum over all rows and tokens of

    row weight * (terms of the token)

so packs, micro-batches and ranks simply add up, and the normalizer lives in the row weight alone. With N rollouts in
the whole update and L trained tokens in a rollout:

    row_mean    1 / (N * L)                each rollout weighs the same     trl's loss_type "grpo"
    token_mean  1 / (sum of all L)         each token weighs the same       trl's "dapo"
    constant    1 / (N * max_completion)   no division by a length          trl's "dr_grpo"

N and L count every rollout of the update, those left out for lack of an advantage included. L is the rollout's, never
the row's, however many rows it has. What rows share is repeated in each.

Source of the normalizers: trl 1.16 ``GRPOTrainer._compute_loss``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError
from ..rollout.records import Group, Kind, Rollout, Segment
from .credit.base import F64, TokenAdvantage
from .packed import F32, I64, PackedBatch

# Shapes: N rollouts of the update, T tokens of a row

Normalizer = Literal["row_mean", "token_mean", "constant"]


@dataclass(frozen=True, slots=True)
class Row:
    """One path from prompt to leaf; arrays are (T,)."""

    ids: I64
    old_logp: F32
    """Behaviour log-probs; NaN on tokens that are not trained."""
    weight: float
    """Row weight of each trained token."""
    policy_version: I64
    """Of the policy that sampled the token; without meaning on tokens that are not trained."""
    advantage: F64
    """Of each token; without meaning on tokens that are not trained."""
    group: int
    """``group_id``."""
    nll: float = 0.0
    """Weight of each trained token in a plain negative log-likelihood term."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def trained(self) -> NDArray[np.bool_]:
        """Which tokens are trained, (T,)."""
        return np.isfinite(self.old_logp)


@dataclass(frozen=True, slots=True)
class Totals:
    """What the normalizers divide by; add those of all ranks."""

    rollouts: int = 0
    tokens: int = 0
    """Trained tokens of all rows."""

    def __add__(self, other: Totals) -> Totals:
        return Totals(self.rollouts + other.rollouts, self.tokens + other.tokens)


def totals_of(groups: Sequence[Group]) -> Totals:
    """Rollouts and trained tokens of some groups."""
    lengths = [group.trained_tokens(rollout) for group in groups for rollout in group.rollouts]
    return Totals(len(lengths), sum(lengths))


def flatten(
    groups: Sequence[Group],
    advantage_N: ArrayLike,
    *,
    normalizer: Normalizer,
    max_completion: int,
    keep_all: bool = False,
    totals: Totals | None = None,
    token_advantage: Sequence[TokenAdvantage] | None = None,
    nll_N: ArrayLike | None = None,
) -> list[Row]:
    """Rows of an update, in the order of the groups.

    Args:
        groups: the rank's part of the update.
        advantage_N: one advantage per rollout, in the order of groups and of rollouts within each.
        normalizer: see the module's docstring.
        max_completion: longest completion in tokens; only ``constant`` uses it.
        keep_all: keep rows without advantage, because another term of the loss (KL, entropy) acts on them.
        totals: rollouts and trained tokens of the whole update on all ranks; by default those of ``groups``.
        token_advantage: instead of ``advantage_N``, for each rollout: sampled segment -> advantage of its tokens.
        nll_N: weight of each rollout's tokens in a plain negative log-likelihood term; by default 0.

    Raises:
        DataError: advantages that are not finite or do not match the rollouts, or a sampled token without a context.
    """
    advantage = np.asarray(advantage_N, np.float64)
    rollouts = [(group, rollout) for group in groups for rollout in group.rollouts]
    if advantage.shape != (len(rollouts),) or not np.isfinite(advantage).all():
        raise DataError(
            f"there are {len(rollouts)} rollouts, but the advantages have shape {advantage.shape} and "
            f"{int((~np.isfinite(advantage)).sum())} of them are not finite; pass one finite number per rollout"
        )
    if token_advantage is None:
        per_token: Sequence[float | TokenAdvantage] = advantage.tolist()
    else:
        per_token = token_advantage
    nll = np.zeros(len(rollouts)) if nll_N is None else np.asarray(nll_N, np.float64)
    totals = totals or totals_of(groups)
    rows: list[Row] = []
    for (group, rollout), value, imitated in zip(rollouts, per_token, nll.tolist(), strict=True):
        length = group.trained_tokens(rollout)
        if length and (keep_all or imitated or value != 0):  # of tokens' advantages nothing is known yet
            weight = _row_weight(normalizer, totals, length, max_completion)
            made = _rows(group, rollout, weight, value, imitated)
            rows += [row for row in made if keep_all or imitated or row.advantage[row.trained].any()]
    return rows


def to_packs(rows: Sequence[Row], micro_batch_tokens: int) -> list[PackedBatch]:
    """Packs in row layout, the largest padded area first.

    The forward pads the rows of a pack to its longest, so rows of similar length go together and the padded area
    ``rows * longest`` stays within ``micro_batch_tokens``. A row that is longer alone gets a pack of its own.
    """
    packs: list[list[Row]] = []
    # Longest first: the first row fixes a pack's width.
    for row in sorted(rows, key=len, reverse=True):
        if packs and (len(packs[-1]) + 1) * len(packs[-1][0]) <= micro_batch_tokens:
            packs[-1].append(row)
        else:
            packs.append([row])
    # A step that does not fit into memory fails at its start.
    return [_pack(pack) for pack in sorted(packs, key=lambda pack: len(pack) * len(pack[0]), reverse=True)]


def _row_weight(normalizer: Normalizer, totals: Totals, length: int, max_completion: int) -> float:
    if normalizer == "row_mean":
        return 1 / (totals.rollouts * length)
    if normalizer == "token_mean":
        return 1 / totals.tokens
    return 1 / (totals.rollouts * max_completion)


def _rows(
    group: Group, rollout: Rollout, weight: float, advantage: float | TokenAdvantage, nll: float
) -> Iterator[Row]:
    """One row per leaf, without those that have nothing left to train."""
    counted: dict[int, int] = {}
    for leaf in rollout.leaves:
        path = group.path(group.leaves[leaf].segment)
        logp = np.concatenate([_trained_logp(segment, counted.get(segment.id, 0), kept) for segment, kept in path])
        counted |= {segment.id: max(kept, counted.get(segment.id, 0)) for segment, kept in path}
        if np.isfinite(logp[:1]).any():
            raise DataError(
                f"group {group.id} has an empty prompt, so its first sampled token follows nothing and has no "
                "log-prob; give every prompt at least one token"
            )
        if np.isfinite(logp).any():
            ids = np.concatenate([segment.ids[:kept] for segment, kept in path]).astype(np.int64)
            version = np.concatenate([segment.version_T[:kept] for segment, kept in path])
            if isinstance(advantage, float):
                advantage_T = np.full(len(ids), advantage)
            else:
                advantage_T = np.concatenate([_advantage(advantage, segment, kept) for segment, kept in path])
            yield Row(ids, logp, weight, version, advantage_T, group.id, nll)


def _advantage(advantage: TokenAdvantage, segment: Segment, kept: int) -> F64:
    """Of the first ``kept`` tokens of a segment; 0 where nothing was sampled."""
    if segment.kind is not Kind.SAMPLED:
        return np.zeros(kept)
    value_T = advantage.get(segment.id)
    if value_T is None or len(value_T) < kept or not np.isfinite(value_T[:kept]).all():
        raise DataError(
            f"the advantages of segment {segment.id} are not {kept} finite numbers; a credit method returns one for "
            "each token of every sampled segment on a rollout's paths"
        )
    return np.asarray(value_T[:kept], np.float64)


def _trained_logp(segment: Segment, start: int, stop: int) -> F32:
    """Behaviour log-probs of the first ``stop`` tokens; NaN before ``start`` and where nothing was sampled."""
    logp = np.full(stop, np.nan, np.float32)
    if segment.kind is Kind.SAMPLED:
        logp[start:] = segment.logp[start:stop]
    return logp


def _pack(rows: Sequence[Row]) -> PackedBatch:
    lengths = np.array([len(row) for row in rows])
    stops = np.cumsum(lengths)
    pos = np.concatenate([np.arange(length) for length in lengths])
    trained = np.concatenate([row.trained for row in rows])
    weight = np.where(trained, np.repeat([row.weight for row in rows], lengths), 0.0)
    weighted = np.where(trained, weight * np.concatenate([row.advantage for row in rows]), 0.0)
    tokens, logp = len(pos), np.concatenate([row.old_logp for row in rows])
    return PackedBatch(
        ids=np.concatenate([row.ids for row in rows]),
        pos=pos,
        sub_end=np.repeat(stops, lengths),
        pred=np.where(pos == 0, -1, np.arange(tokens) - 1),
        old_logp=logp,
        engine_logp=logp,
        ref_logp=np.full(tokens, np.nan, np.float32),
        w_pos=np.maximum(weighted, 0).astype(np.float32),
        w_neg=np.minimum(weighted, 0).astype(np.float32),
        w_kl=weight.astype(np.float32),
        w_ent=weight.astype(np.float32),
        # The log-likelihood term has no coefficient in the loss: it is in the weight.
        w_nll=np.where(trained, np.repeat([row.nll for row in rows], lengths), 0.0).astype(np.float32),
        group=np.repeat([row.group for row in rows], lengths),
        policy_version=np.concatenate([row.policy_version for row in rows]),
    )
