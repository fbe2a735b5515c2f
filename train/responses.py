"""What shapings look at, from the rollouts of one rank or of all: ``Responses`` with no more in it than is needed.

A rollout's answer is its last leaf: outcome, thought, exit and truncation are that leaf's, while length, ids and
critical path are the whole rollout's. Groups keep their ids, and responses are in the order of group ids, so that those
of all ranks are those one rank alone would have.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..eval.tasks.prompt import prompt_thought
from ..eval.thinking import end_think_ids, think_split
from ..rewards.shaping.base import Responses
from ..rewards.verifiers.answer_part import END_THINK, THINK
from ..rollout.records import Group, Kind, Rollout
from ..rollout.savings import critical_tokens
from .credit.base import Gather, alone

# Shapes: N responses, T tokens of one


BLANKS = 8
"""A thought of at most so many tokens may be empty."""


def no_budget(group: Group) -> float:
    """Of prompts that ask for none."""
    return float("nan")


@dataclass(frozen=True)
class Scene:
    """What the responses of one generation have in common."""

    tokenizer: Any = None
    """Only read where a shaping needs thoughts."""
    cap: int | None = None
    """Longest response in tokens."""
    step: int = 0
    """Generation, from 0."""
    budget: Callable[[Group], float] = no_budget
    """Tokens that a group's prompt asks for; NaN where it asks for none."""
    gather: Gather = alone
    """The values of all ranks, by rank."""
    states: Mapping[str, Any] = field(default_factory=dict)
    """State of every shaping and of the selection that have one, by ``state_key``."""


def responses_of(
    groups: Sequence[Group],
    right_N: NDArray[np.bool_],
    length_N: NDArray[Any],
    needs: Collection[str],
    scene: Scene,
) -> Responses:
    """The responses of some groups; of the needs that are not named nothing is computed."""
    rollouts = [(group, rollout) for group in groups for rollout in group.rollouts]
    filled: dict[str, Any] = {}
    if "truncated" in needs:
        filled["truncated_N"] = np.array([g.truncated(g.leaves[r.leaves[-1]]) for g, r in rollouts], bool)
    if "thought" in needs:
        end_ids = end_think_ids(scene.tokenizer, END_THINK)
        # A prompt may have closed the thought already.
        begun = {group.id: prompt_thought(group.segments[0].ids, scene.tokenizer) for group in groups}
        filled["thought_N"] = np.array(
            [0.0 if begun[g.id] == "closed" else thought_tokens(g, r, scene.tokenizer, end_ids) for g, r in rollouts],
            np.float64,
        )
    if "budget" in needs:
        filled["budget_N"] = np.array([scene.budget(group) for group, _ in rollouts], np.float64)
    if "critical" in needs:
        filled["critical_N"] = np.array([critical_tokens(group, rollout) for group, rollout in rollouts], np.float64)
    if "ids" in needs:
        filled["ids_N"] = tuple(trained_ids(group, rollout) for group, rollout in rollouts)
    if "problem" in needs:
        filled["problem_N"] = tuple(group.problem_id for group, _ in rollouts)
    if "exit" in needs or "chain" in needs:
        thoughts = [_first_sampled(group, rollout) for group, rollout in rollouts]
        filled["chain_N"] = np.array([segment for segment, _ in thoughts], np.int64)
        filled["exit_N"] = np.array([kept for _, kept in thoughts], np.float64)
    if "cap" in needs:
        filled["cap"] = scene.cap
    group_N = np.array([group.id for group, _ in rollouts], np.int64)
    return Responses(right_N, np.asarray(length_N, np.float64), group_N, step=scene.step, **filled)


def everywhere(own: Responses, gather: Gather) -> tuple[Responses, NDArray[np.int64]]:
    """The responses of all ranks in the order of group ids, and the places of this rank's among them."""
    parts = gather(own)
    if len(parts) == 1:
        order_N = np.argsort(own.group_N, kind="stable")
        return own.select(order_N), np.argsort(order_N, kind="stable")
    columns: dict[str, Any] = {}
    for name in (spec.name for spec in fields(Responses) if spec.name.endswith("_N")):
        values = [getattr(part, name) for part in parts]
        if isinstance(values[0], tuple):
            columns[name] = tuple(one for part in values for one in part)
        elif values[0] is not None:
            columns[name] = np.concatenate(values)
    together = replace(own, **columns)
    whole = together.select(np.argsort(together.group_N, kind="stable"))
    mine = np.flatnonzero(np.isin(whole.group_N, own.group_N))
    return whole, mine[_places(own.group_N)]


def _places(group_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank of each response in a stable sort by group."""
    return np.argsort(np.argsort(group_N, kind="stable"), kind="stable")


def within_dead_zone(responses: Responses, tokens: float) -> Responses:
    """Right responses at most so many tokens longer than the shortest right one of their group, as long as that."""
    if not tokens or not len(responses):
        return responses
    length_N = responses.length_N.copy()
    for rows in responses.by_group():
        right = rows[responses.right_N[rows]]
        if len(right):
            shortest = length_N[right].min()
            length_N[right] = np.where(length_N[right] <= shortest + tokens, shortest, length_N[right])
    return replace(responses, length_N=length_N)


def thought_tokens(group: Group, rollout: Rollout, tokenizer: Any, end_ids: tuple[int, ...]) -> float:
    """Trained tokens before the answer's last end-of-thought mark; NaN without a mark.

    An opening mark is none of them, and a thought of blanks only (``<think>``, an empty line) has 0 tokens.
    """
    pieces = group.path(group.leaves[rollout.leaves[-1]].segment)[1:]
    ids_T = np.concatenate([np.empty(0, np.int32), *(segment.ids[:kept] for segment, kept in pieces)])
    stop, ended = think_split(ids_T, end_ids)
    if not ended:
        return float("nan")
    trained_T = np.concatenate([np.full(kept, segment.kind is Kind.SAMPLED) for segment, kept in pieces])
    before_T = ids_T[: stop - len(end_ids)][trained_T[: stop - len(end_ids)]]
    beginning = str(tokenizer.decode(before_T[:BLANKS], skip_special_tokens=False)).lstrip()
    if not beginning.startswith(THINK):
        return 0.0 if not beginning and len(before_T) <= BLANKS else float(len(before_T))
    opening = len(end_think_ids(tokenizer, THINK))
    blank = not beginning.removeprefix(THINK).strip() and len(before_T) <= BLANKS
    return 0.0 if blank else float(max(0, len(before_T) - opening))


def trained_ids(group: Group, rollout: Rollout) -> NDArray[np.int32]:
    """Ids of the rollout's trained tokens, segment after segment, int32 (T,)."""
    pieces = [group.segments[segment].ids[:kept] for segment, kept in group.trained(rollout).items()]
    return np.concatenate([np.empty(0, np.int32), *pieces])


def _first_sampled(group: Group, rollout: Rollout) -> tuple[int, int]:
    """The thought that the answer stands on, and how many of its tokens: the first sampled segment of its path."""
    for segment, kept in group.path(group.leaves[rollout.leaves[-1]].segment):
        if segment.kind is Kind.SAMPLED:
            return segment.id, kept
    return group.leaves[rollout.leaves[-1]].segment, 0
