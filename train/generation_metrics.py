"""What a person wants to know of one generation, over the groups of all ranks.

    experience ──> Facts (a few numbers per rollout) ──> gathered, merged in the order of group ids ──> metrics

Facts are small enough to send, and merged ones are those that one rank alone would have, in its order: a metric does
not depend on the number of ranks.

Shapes: N rollouts, groups one after another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..rewards.filters import frac_all_right, frac_all_wrong, signal
from ..rewards.shaping.checks import correct_dominance, length_only_signal
from ..rewards.verdict import Verdict
from ..rollout.records import Cost, Group, Stop
from ..rollout.savings import critical_tokens, decoded_tokens, flat_cost, saving
from .experience import Experience, failed_share


@dataclass(frozen=True, slots=True)
class Facts:
    """What the metrics need of an experience; arrays are (N,)."""

    prompts: dict[int, bytes]
    """Group id -> the bytes of its prompt's token ids."""
    cost: Cost
    flat: Cost
    """What flat sampling of the same answers would cost: T_traj and T_flat."""
    group_N: NDArray[np.int64]
    """Group ids."""
    right_N: NDArray[np.bool_]
    length_N: NDArray[np.int64]
    critical_N: NDArray[np.int64]
    """T_crit of each rollout."""
    decoded_N: NDArray[np.int64]
    """T_dec of each rollout; tokens that rollouts share count for each."""
    truncated_N: NDArray[np.bool_]
    cut_N: NDArray[np.bool_]
    verdict_N: NDArray[Any]
    stop_N: NDArray[Any]
    reward_N: NDArray[np.float64]
    """NaN where there is none yet; likewise the advantage."""
    advantage_N: NDArray[np.float64]


_ARRAYS = (
    "group_N",
    "right_N",
    "length_N",
    "critical_N",
    "decoded_N",
    "truncated_N",
    "cut_N",
    "verdict_N",
    "stop_N",
    "reward_N",
    "advantage_N",
)


def facts_of(experience: Experience) -> Facts:
    """The facts of one rank's groups."""
    groups, rollouts = experience.groups, len(experience.judgement_N)
    stops = [g.segments[g.leaves[r.leaves[-1]].segment].stop for g in groups for r in g.rollouts]
    none = np.full(rollouts, np.nan)
    return Facts(
        prompts={group.id: group.segments[0].ids.tobytes() for group in groups},
        cost=sum((group.cost for group in groups), Cost()),
        flat=sum(map(flat_cost, groups), Cost()),
        group_N=np.array([group.id for group in groups for _ in group.rollouts], np.int64),
        right_N=experience.right_N,
        length_N=experience.length_N,
        critical_N=np.array([critical_tokens(group, one) for group in groups for one in group.rollouts], np.int64),
        decoded_N=np.array([decoded_tokens(group, one) for group in groups for one in group.rollouts], np.int64),
        truncated_N=experience.truncated_N,
        cut_N=experience.cut_N,
        verdict_N=np.array([str(judgement.verdict) for judgement in experience.judgement_N], object),
        stop_N=np.array([str(stop) for stop in stops], object),
        reward_N=none if experience.reward_N is None else experience.reward_N,
        advantage_N=none if experience.advantage_N is None else experience.advantage_N,
    )


def merge(parts: Sequence[Facts]) -> Facts:
    """The facts of all ranks as one rank alone would have them."""
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    order = np.argsort(columns["group_N"], kind="stable")
    prompts = {number: ids for part in parts for number, ids in part.prompts.items()}
    return Facts(
        prompts=dict(sorted(prompts.items())),
        cost=sum((part.cost for part in parts), Cost()),
        flat=sum((part.flat for part in parts), Cost()),
        **{name: column[order] for name, column in columns.items()},
    )


def outcome_metrics(sampled: Facts) -> dict[str, float]:
    """What was sampled, before truncation and filters: its cost, outcomes and lengths."""
    right_N, length_N, group_N = sampled.right_N, sampled.length_N, sampled.group_N
    return {
        "tokens/decoded": sampled.cost.decoded,
        "tokens/prefilled": sampled.cost.prefilled,
        "tokens/cached": sampled.cost.cached,
        "tokens/kv_read": sampled.cost.kv_read,
        "tokens/trajectories": sampled.flat.decoded,
        "tokens/critical": _mean(sampled.critical_N),
        "tokens/saved": saving(sampled.cost.decoded, sampled.flat.decoded),
        "tokens/parallel_saved": saving(int(sampled.critical_N.sum()), int(sampled.decoded_N.sum())),
        "tokens/kv_saved": saving(sampled.cost.kv_read, sampled.flat.kv_read),
        "outcome/accuracy": float(right_N.mean()),
        "outcome/unreadable": float((sampled.verdict_N == str(Verdict.UNREADABLE)).mean()),
        "outcome/verifier_failed": failed_share(sampled.verdict_N),
        "length/mean": float(length_N.mean()),
        "length/max": float(length_N.max()),
        "length/right": _mean(length_N[right_N]),
        "length/wrong": _mean(length_N[~right_N]),
        "length/truncated": float(sampled.truncated_N.mean()),
        "groups/all_right": frac_all_right(right_N, group_N),
        "groups/all_wrong": frac_all_wrong(right_N, group_N),
        "groups/mixed": float(signal(right_N, group_N).mean()),
    } | {f"stop/{reason}": float((sampled.stop_N == str(reason)).mean()) for reason in (Stop.EOS, Stop.LENGTH)}


def training_metrics(sampled: Facts, kept: Facts) -> dict[str, Any]:
    """What of a generation is trained on: ``sampled`` is after truncation, ``kept`` has credit."""
    return {
        "groups/sampled": len(sampled.prompts),
        "groups/kept": len(kept.prompts),
        "groups/with_signal": len(np.unique(kept.group_N[kept.advantage_N != 0])),
        "dot/cut": float(sampled.cut_N.mean()),
        "reward/mean": _mean(kept.reward_N),
        "reward/wrong_above_right": correct_dominance(kept.right_N, kept.reward_N, kept.group_N),
        "reward/length_only_groups": length_only_signal(kept.right_N, kept.reward_N, kept.group_N),
        "prompt_ids_hash": hashlib.blake2b(b"".join(sampled.prompts.values()), digest_size=8).hexdigest(),
    }


def older_tokens(groups: Sequence[Group], newest: int) -> NDArray[np.int64]:
    """Trained tokens that policies before version ``newest`` decoded, and all trained tokens, shape (2,)."""
    older = total = 0
    for group in groups:
        for rollout in group.rollouts:
            for segment, kept in group.trained(rollout).items():
                version_T = group.segments[segment].version_T[:kept]
                older, total = older + int((version_T < newest).sum()), total + kept
    return np.array([older, total])


def average_packs(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over tokens of the packs' means (of ``_max`` the maximum), and the sum of their trained tokens."""
    tokens = np.array([row["tokens/trained"] for row in rows])
    averaged = {}
    for key in rows[0] if rows else ():  # without any where no group has an advantage
        values = np.array([row[key] for row in rows])
        averaged[key] = values.max() if key.endswith("_max") else np.average(values, weights=np.maximum(tokens, 1e-9))
    return {key: float(value) for key, value in averaged.items()} | {"tokens/trained": float(tokens.sum())}


def _mean(values: NDArray[Any]) -> float:
    """Mean, or NaN (written as null) where there is nothing to average."""
    return float(values.mean()) if len(values) else float("nan")
