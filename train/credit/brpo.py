"""`brpo`: every stretch of a thought against what the group, and the thought itself, had scored up to there.

Trace g of G is answered A times from each of S budgets' prefixes. With r[g,k] the mean score of budget k (from 0) and P
the prior over budgets, tokens between the ends of prefixes s - 1 and s of a thought get

    R[g,s]  = sum_{k>=s} P_k r[g,k]                                      what can still be earned
    V1[g,s] = (sum_{k<s} 2^k r[g,k] / sum_{k<s} 2^k) sum_{k>=s} P_k      own scores so far, 0 for s = 0
    V2[g,s] = mean_g R[g,s]                                              0 for G = 1
    A[g,s]  = R[g,s] - (s V1[g,s] + (S - s) V2[g,s]) / S                 mode brpo
              R - V1 (v1only), R - V2 (v2only), R (none), 0 (notrain)

    summary:  score - mean of the scores at the same prefix of the same trace, or with A = 1 of the same budget in the
              group; whatever P is

Early tokens are compared with the group, late ones with the thought's own earlier scores. No deviation divides, and
equal scores throughout a group give 0 (not in modes v1only and none). Budgets beyond the end of a thought have no
tokens, but their scores count.

Made for ``rollout.driver anytime`` with ``unit: summary``, where each summary has a reward. P, S, A and the prefixes
are read off the group: P off the leaves' weights, which are the driver's prior (a budget of weight 0 counts in V1 and
trains its summaries all the same), A off the answers to the first of several prefixes. Where every thought of a group
is answered from one prefix only, S and A do not matter but for A = 1: then its own summaries are the baseline.

A thought is on the path of all its S x A summaries. It is trained in one of them only, the last one, whose path holds
all of it; its advantage in the others is 0. All rows must weigh the same for that: ``objective.normalizer: constant``.

Source: AnytimeReasoner, arXiv 2505.13438, and its code sail-sg/AnytimeReasoner verl/trainer/ppo/brpo.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import ConfigError, DataError
from ...rollout.records import Group
from .base import F64, Gather, TokenAdvantage, alone, constant, is_sampled, lone_leaf, rewards_by_group
from .grouping import GroupStats

# Shapes: G traces, S budgets, A summaries of each; n rollouts of one group; N of all groups

Mode = Literal["brpo", "v1only", "v2only", "none", "notrain"]


@dataclass(frozen=True)
class Brpo:
    """Budget-relative advantages of thoughts, and summaries against those of the same prefix."""

    mode: Mode = "brpo"
    """Baseline of thoughts: both, the trace's own scores, the group's mean, none; ``notrain`` trains summaries only."""
    summaries: Literal["all", "last", "none"] = "all"
    """Which summaries are trained: all, those of the largest budget (the paper's GRPO arm), or none."""
    recency: float = 2.0
    """How much more each budget's score weighs in V1 than that of the budget before it."""

    name: ClassVar[str] = "brpo"

    def __post_init__(self) -> None:
        if not self.recency > 0:
            raise ConfigError(f"credit.recency is {self.recency} but must be above 0; the published value is 2")
        if self.mode == "notrain" and self.summaries == "none":
            raise ConfigError(
                "credit.mode is notrain and credit.summaries is none, so that nothing is trained; change one of them"
            )

    def check(self, settings: Any) -> None:
        """Raise ``ConfigError`` unless all summaries have rewards of their own and all rows weigh the same."""
        driver = settings.rollout.driver
        if getattr(driver, "name", "") != "anytime" or driver.unit != "summary":
            raise ConfigError(
                "credit brpo compares answers from several prefixes of a thought, each with its own reward; set "
                "rollout.driver.name=anytime and rollout.driver.unit=summary, or credit.name=dr_grpo"
            )
        if getattr(settings.objective, "normalizer", "constant") == "row_mean":
            raise ConfigError(
                "credit brpo trains a thought in one of many rows, but objective.normalizer row_mean divides each by "
                "its own length; set objective.normalizer=constant"
            )
        if settings.reward.selection.name != "all":
            raise ConfigError(
                f"reward.selection {settings.reward.selection.name} leaves summaries out, but credit brpo trains a "
                "thought in the row of its last one, and would leave it out too; set reward.selection.name=all"
            )

    def __call__(self, reward_N: ArrayLike, group_N: ArrayLike) -> F64:
        """Advantages of answers without a budget, float64 (N,): what is left with S = A = 1, r - mean of the group."""
        return GroupStats.of(reward_N, group_N).deviation_N

    def on_trees(self, reward_N: ArrayLike, groups: Sequence[Group], gather: Gather = alone) -> list[TokenAdvantage]:
        """Advantages of tokens, for each rollout.

        Raises:
            DataError: groups that are not those of driver ``anytime`` with a reward for each summary.
        """
        rewards = rewards_by_group(reward_N, groups)
        return [one for group, reward in zip(groups, rewards, strict=True) for one in self._group(group, reward)]

    def thinking(self, score_GS: ArrayLike, prior_S: ArrayLike) -> F64:
        """A of the stretch before each budget, float64 (G, S). A trace with a NaN gets 0 and is in no mean."""
        score, prior = np.asarray(score_GS, np.float64), np.asarray(prior_S, np.float64)
        known_G = np.asarray(~np.isnan(score).any(axis=1))
        alone_in_group = known_G.sum() < 2
        compares = self.mode in ("brpo", "v2only") and not alone_in_group
        if self.mode == "notrain" or (compares and np.ptp(score[known_G]) == 0):
            return np.zeros_like(score)
        score = np.where(known_G[:, None], score, 0.0)
        step_S = np.arange(len(prior))
        ahead_SS = np.triu(np.ones((len(prior), len(prior))))  # [s, k] is 1 where k >= s
        return_GS = score @ (ahead_SS * prior).T
        weight_SS = (1 - ahead_SS) * self.recency ** (step_S - float(len(prior)))
        weight_SS[1:] /= weight_SS[1:].sum(axis=1, keepdims=True)
        own_GS = (score @ weight_SS.T) * (ahead_SS @ prior)
        among_S = np.zeros(len(prior)) if alone_in_group else return_GS[known_G].mean(axis=0)
        baseline_GS = {
            "brpo": (step_S * own_GS + (len(prior) - step_S) * among_S) / len(prior),
            "v1only": own_GS,
            "v2only": among_S,
            "none": 0.0,
        }[self.mode]
        return np.where(known_G[:, None], return_GS - baseline_GS, 0.0)

    def _group(self, group: Group, reward_n: F64) -> list[TokenAdvantage]:
        """Advantages of one group: thoughts on the path of their last summary, summaries on their own."""
        if not group.rollouts:
            return []
        rows_GM, cut_GM, weight_GM = _traces(group)
        score_GM = reward_n[rows_GM]
        # The first of several prefixes has exactly A answers. A group with one prefix to each trace counts as S = 1.
        answers = int((cut_GM == cut_GM[:, :1]).sum(axis=1).min())
        budgets = rows_GM.shape[1] // answers
        if budgets * answers != rows_GM.shape[1]:
            raise _not_anytime(group)
        cut_GS = cut_GM.reshape(-1, budgets, answers)[:, :, 0]
        score_GSA = score_GM.reshape(-1, budgets, answers)
        prior_S = weight_GM[0].reshape(budgets, answers).sum(axis=1)
        weight_A = weight_GM[0] if budgets == 1 else np.ones(answers)
        thinking_GS = self.thinking(_mean(score_GSA, weight_A), prior_S / prior_S.sum())

        trace_GM, slot_GM = np.indices(rows_GM.shape)
        same_GM = slot_GM if answers == 1 else trace_GM * (cut_GM.max() + 1) + cut_GM
        summary_GM = GroupStats.of(score_GM.ravel(), same_GM.ravel()).deviation_N.reshape(rows_GM.shape)
        if self.summaries != "all":
            summary_GM = np.where((cut_GM == cut_GM[:, -1:]) & (self.summaries == "last"), summary_GM, 0.0)

        tokens = [dict[int, F64]() for _ in group.rollouts]
        for trace, rows in enumerate(rows_GM.tolist()):
            for row, advantage in zip(rows, summary_GM[trace].tolist(), strict=True):
                thought = _thought(group, row)[0]
                tokens[row] = {**constant(group, group.rollouts[row], advantage)}
                tokens[row][thought] = np.zeros(len(group.segments[thought]))
            start = 0
            for stop, advantage in zip(cut_GS[trace].tolist(), thinking_GS[trace].tolist(), strict=True):
                tokens[rows[-1]][thought][start:stop] = advantage
                start = max(start, stop)
        return list(tokens)


def _mean(score_GSA: F64, weight_A: F64) -> F64:
    """Weighted mean of the known scores of each budget, (G, S); NaN without one."""
    weight_GSA = weight_A * ~np.isnan(score_GSA)
    total_GS = weight_GSA.sum(axis=2)
    return np.where(total_GS > 0, (weight_GSA * np.nan_to_num(score_GSA)).sum(axis=2), np.nan) / np.maximum(
        total_GS, np.finfo(float).tiny
    )


def _thought(group: Group, row: int) -> tuple[int, int]:
    """A summary's thought and how many of its tokens it was answered from."""
    path = group.path(group.leaves[lone_leaf(group, group.rollouts[row], "brpo")].segment)
    if len(path) < 3 or not is_sampled(group, path[1][0].id):
        raise DataError(
            f"credit brpo needs thoughts that are answered from several prefixes, but rollout {row} of group "
            f"{group.id} is no summary of one; set rollout.driver.name=anytime and rollout.driver.unit=summary"
        )
    return path[1][0].id, path[1][1]


def _traces(group: Group) -> tuple[NDArray[np.int64], NDArray[np.int64], F64]:
    """Rollouts of each trace in the order of budgets, their prefixes and the weights of their leaves, (G, S * A)."""
    order = sorted(range(len(group.rollouts)), key=lambda row: group.rollouts[row].leaves)
    traces: dict[int, list[int]] = {}
    for row in order:
        traces.setdefault(_thought(group, row)[0], []).append(row)
    rows = list(traces.values())
    cuts = [[_thought(group, row)[1] for row in trace] for trace in rows]
    if len({len(trace) for trace in rows}) > 1 or any(sorted(cut) != cut for cut in cuts):
        raise _not_anytime(group)
    weight = [[group.leaves[group.rollouts[row].leaves[0]].weight for row in trace] for trace in rows]
    return np.array(rows, np.int64), np.array(cuts, np.int64), np.array(weight, np.float64)


def _not_anytime(group: Group) -> DataError:
    return DataError(
        f"the summaries of group {group.id} are not budgets x summaries for each thought, in the order of budgets; "
        "credit brpo needs whole groups of rollout.driver.name=anytime"
    )
