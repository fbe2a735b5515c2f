"""What a person wants to know of one generation, over the groups of all ranks.

    experience ──> Facts (a few numbers per rollout) ──> gathered, merged in the order of group ids ──> metrics

Facts are small enough to send, and merged ones are those that one rank alone would have, in its order: a metric does
not depend on the number of ranks.

Shapes: N rollouts, groups one after another.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..eval.tasks import Problem
from ..rewards.filters import frac_all_right, frac_all_wrong, signal
from ..rewards.selection import Selected, selection_metrics
from ..rewards.shaping.base import Responses
from ..rewards.shaping.checks import SAME, correct_dominance, length_only_signal, length_only_wrong
from ..rewards.verdict import Verdict
from ..rollout.records import Cost, Group, Stop
from ..rollout.savings import critical_tokens, decoded_tokens, flat_cost, saving
from .alarms import active_key
from .experience import Experience, failed_share
from .responses import Scene, responses_of, trained_ids


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
    signal_N: NDArray[np.bool_]
    """Whether any token has an advantage."""
    keep_N: NDArray[np.bool_]
    """Whether the selection keeps it."""
    thought_N: NDArray[np.float64]
    """Tokens of the thought; NaN where none has ended, or where thoughts are not looked at."""
    repeated_N: NDArray[np.float64]
    """Share of the n-grams that were there before; NaN where nobody looked."""
    band_N: NDArray[np.int64]
    """0 of the easiest third of the problems, 1, 2 of the hardest, -1 where the difficulty is not known."""
    part_NK: NDArray[np.float64]
    """Length part of each term of the reward."""


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
    "signal_N",
    "keep_N",
    "thought_N",
    "repeated_N",
    "band_N",
    "part_NK",
)
BANDS = ("easy", "middle", "hard")
NGRAM = 8
"""Tokens of the n-grams whose repetition is counted."""
SHORT_THOUGHT = 32
"""Tokens below which a thought is called short."""
FLAT = 1e-4
"""Standard deviation of the rewards below which a group is called flat."""


def facts_of(experience: Experience, tokenizer: Any = None, bands: Mapping[str, int] | None = None) -> Facts:
    """The facts of one rank's groups; thoughts and repetitions are looked at with a tokenizer only.

    ``bands``: problem -> its third by difficulty, see ``difficulty_bands``.
    """
    groups, rollouts = experience.groups, len(experience.judgement_N)
    stops = [g.segments[g.leaves[r.leaves[-1]].segment].stop for g in groups for r in g.rollouts]
    none = np.full(rollouts, np.nan)
    paths = [(group, rollout) for group in groups for rollout in group.rollouts]
    thought_N, repeated_N = none, none
    if tokenizer is not None:
        repeated_N = np.array([repeated(trained_ids(*one)) for one in paths], np.float64)
        looked = responses_of(groups, experience.right_N, experience.length_N, {"thought"}, Scene(tokenizer))
        assert looked.thought_N is not None
        thought_N = looked.thought_N
    advantage_N = none if experience.advantage_N is None else experience.advantage_N
    signal_N = advantage_N != 0
    if experience.token_advantage is not None:
        tokens = [[*advantage.values()] for advantage in experience.token_advantage]
        signal_N = np.array([any(value_T.any() for value_T in values) for values in tokens], dtype=bool)
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
        advantage_N=advantage_N,
        signal_N=signal_N,
        keep_N=np.ones(rollouts, bool) if experience.selected is None else experience.selected.keep_N,
        thought_N=thought_N,
        repeated_N=repeated_N,
        band_N=np.array([(bands or {}).get(group.problem_id, -1) for group, _ in paths], np.int64),
        part_NK=np.stack([*experience.parts], axis=1) if experience.parts else np.zeros((rollouts, 0)),
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
    # Without any end of thought at all, the model has no thoughts, or nobody looked.
    known_N = np.full(len(right_N), not np.isnan(sampled.thought_N).all())
    return (
        {
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
            "length/outcome_correlation": within_groups(length_N, right_N, group_N),
            "length/repeated": _mean(sampled.repeated_N),
            "thought/none": _mean(np.nan_to_num(sampled.thought_N, nan=np.inf)[known_N] == 0),
            "thought/short": _mean(np.nan_to_num(sampled.thought_N, nan=np.inf)[known_N] < SHORT_THOUGHT),
            "thought/open": _mean(np.isnan(sampled.thought_N)[known_N]),
        }
        | {f"outcome/{name}": _mean(right_N[sampled.band_N == band]) for band, name in enumerate(BANDS)}
        | {f"stop/{reason}": float((sampled.stop_N == str(reason)).mean()) for reason in (Stop.EOS, Stop.LENGTH)}
    )


def training_metrics(sampled: Facts, kept: Facts) -> dict[str, Any]:
    """What of a generation is trained on: ``sampled`` is after truncation, ``kept`` has credit."""
    return {
        "groups/sampled": len(sampled.prompts),
        "groups/kept": len(kept.prompts),
        "groups/with_signal": len(np.unique(kept.group_N[kept.signal_N])),
        "dot/cut": float(sampled.cut_N.mean()),
        "reward/mean": _mean(kept.reward_N),
        "reward/wrong_above_right": correct_dominance(kept.right_N, kept.reward_N, kept.group_N),
        "reward/length_only_groups": length_only_signal(kept.right_N, kept.reward_N, kept.group_N),
        "reward/length_only_wrong": length_only_wrong(kept.right_N, kept.reward_N, kept.group_N),
        "reward/flat_groups": flat_groups(kept.reward_N, kept.group_N),
        "reward/explained_by_length": within_groups(kept.length_N, kept.reward_N, kept.group_N) ** 2,
        "prompt_ids_hash": hashlib.blake2b(b"".join(sampled.prompts.values()), digest_size=8).hexdigest(),
    }


def term_metrics(kept: Facts, terms: Sequence[str]) -> dict[str, float]:
    """For each length method the share of groups in which it tells answers of one outcome apart, and its mean part."""
    found = {}
    for number, term in enumerate(terms):
        part_N = kept.part_NK[:, number] if kept.part_NK.shape[1] else np.zeros(len(kept.right_N))
        apart_P = [
            max(
                float(np.ptp(part_N[rows & side_N]))
                for side_N in (kept.right_N, ~kept.right_N)
                if (rows & side_N).any()
            )
            > SAME
            for rows in (kept.group_N == group for group in np.unique(kept.group_N))
        ]
        found[active_key(term)] = _mean(np.array(apart_P, dtype=float))
        found[f"reward/part_right_{term}"] = _mean(part_N[kept.right_N])
        found[f"reward/part_wrong_{term}"] = _mean(part_N[~kept.right_N])
    return found


def selected_metrics(kept: Facts) -> dict[str, float]:
    """What a selection among the answers of each group does; see ``rewards/selection``."""
    if not len(kept.right_N):
        return {"selection/kept": float("nan"), "selection/equal_kept": float("nan")}
    responses = Responses(kept.right_N, kept.length_N.astype(np.float64), kept.group_N)
    return selection_metrics(responses, kept.reward_N, Selected(kept.keep_N, kept.keep_N))


def difficulty_bands(problems: Sequence[Problem]) -> dict[str, int]:
    """Problem -> 0, 1 or 2, for the thirds of the problems whose level is known; equal levels share a third."""
    known = sorted(problem.level for problem in problems if problem.level is not None)
    if not known or known[0] == known[-1]:
        return {}
    return {
        problem.id: min(2, 3 * bisect_left(known, problem.level) // len(known))
        for problem in problems
        if problem.level is not None
    }


def repeated(ids_T: NDArray[np.int32]) -> float:
    """Share of the n-grams of ``NGRAM`` tokens that were there before; 0 where there is none."""
    if len(ids_T) < NGRAM:
        return 0.0
    windows = np.lib.stride_tricks.sliding_window_view(ids_T.astype(np.uint64), NGRAM)
    # One number stands for each n-gram: a polynomial, modulo 2^64.
    key_T = (windows * np.uint64(0x9E3779B97F4A7C15) ** np.arange(1, NGRAM + 1, dtype=np.uint64)).sum(axis=1)
    return 1 - len(np.unique(key_T)) / len(key_T)


def within_groups(length_N: NDArray[Any], other_N: NDArray[Any], group_N: NDArray[np.int64]) -> float:
    """Correlation of length and outcome or reward, both less their group's mean; NaN where one does not vary."""
    _, index_N = np.unique(group_N, return_inverse=True)
    count_P = np.bincount(index_N)

    def centred(value_N: NDArray[Any]) -> NDArray[np.float64]:
        return value_N - (np.bincount(index_N, weights=value_N) / count_P)[index_N]

    length, other = centred(length_N.astype(np.float64)), centred(other_N.astype(np.float64))
    scale = float(np.sqrt((length**2).sum() * (other**2).sum()))
    return float((length * other).sum()) / scale if scale > SAME else float("nan")


def flat_groups(reward_N: NDArray[np.float64], group_N: NDArray[np.int64]) -> float:
    """Share of groups whose rewards have a standard deviation below ``FLAT``; NaN without groups."""
    deviations = [float(np.std(reward_N[group_N == group])) for group in np.unique(group_N)]
    return _mean(np.array(deviations) < FLAT)


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
