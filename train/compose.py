"""From what shapings say to one reward, and from rewards to advantages, where there are several terms.

With c the outcome, r_k the reward of shaping k, w_k its weight, and part_k = r_k - c its length part:

    level reward       r = c + sum_k w_k part_k         A = credit(r)
    level advantage    A = credit(c) + sum_k w_k credit(part_k)

At level ``reward`` a credit that divides by the group's standard deviation sees the sum: in groups whose outcomes are
equal it cancels every weight, because A of a + b f(L) is that of f(L) for any b > 0. At level ``advantage`` each part
is normalised on its own and w_k is the true weight beside the outcome, which is 0 in these groups. What follows from it
for a right answer is no longer bounded by the range of the reward: with w_k = 1 a long right answer can come out below
a wrong one, so keep weights small.

``dead_zone``: a right response at most that many tokens longer than the shortest right one of its group counts as long
as that, for every shaping. ``std_floor``: no group's standard deviation counts as less. Both keep differences of a few
tokens from becoming gradients of full size.

Source: the combination at the level of advantages is that of GDPO-like normalisation in trl 1.16
(``normalize_then_sum``); the dead zone is Short-RL's, arXiv 2505.12284. The floor is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..rewards.selection.base import Selected
from ..rewards.shaping.base import F64, Responses
from ..rollout.records import Group
from .credit.base import Gather, TokenAdvantage, assign
from .responses import Scene, everywhere, responses_of, within_dead_zone

if TYPE_CHECKING:
    from .settings import RewardSettings

# Shapes: N responses of this rank, K shapings

WHOLE = ("batch", "history")
"""Scopes of shapings that look at a generation, of all ranks."""
Advantages = tuple[F64, tuple[TokenAdvantage, ...] | None]
"""Of rollouts, (N,), and of their tokens where the credit method gives them."""


def shape_all(
    groups: Sequence[Group], right_N: NDArray[np.bool_], length_N: NDArray[Any], reward: RewardSettings, scene: Scene
) -> tuple[F64, tuple[F64, ...]]:
    """Rewards (N,) with all terms in them, and the length part of each shaping, (N,)."""
    needs = set[str]().union(*(shaping.needs for shaping, _ in reward.terms))
    own = within_dead_zone(responses_of(groups, right_N, length_N, needs, scene), reward.dead_zone)
    whole = everywhere(own, scene.gather) if any(shaping.scope in WHOLE for shaping, _ in reward.terms) else None
    outcome_N = right_N.astype(np.float64)
    rewards = [
        _shape(shaping, own, whole, scene.states.get(state_key(index), {}))
        for index, (shaping, _) in enumerate(reward.terms)
    ]
    parts = tuple(reward_N - outcome_N for reward_N in rewards)
    weights = [weight for _, weight in reward.terms]
    if weights == [1.0]:  # exactly what the shaping says, not rounded by a detour over its part
        return rewards[0], parts
    return outcome_N + sum(weight * part_N for weight, part_N in zip(weights, parts, strict=True)), parts


def advantages(
    method: Any,
    groups: Sequence[Group],
    right_N: NDArray[np.bool_],
    reward_N: F64,
    parts: Sequence[F64],
    selected: Selected,
    reward: RewardSettings,
    gather: Gather,
) -> Advantages:
    """Credit under a composition and a selection; ``parts`` are those of ``shape_all``."""

    def of(value_N: F64) -> Advantages:
        advantage_N, tokens = assign(method, np.where(selected.counted_N, value_N, np.nan), groups, gather)
        kept_N = np.where(selected.keep_N, advantage_N, 0.0)
        if tokens is None:
            return kept_N, None
        return kept_N, tuple(
            {segment: value if keep else np.zeros_like(value) for segment, value in one.items()}
            for one, keep in zip(tokens, selected.keep_N.tolist(), strict=True)
        )

    if reward.level == "reward":
        return of(reward_N)
    total_N, tokens = of(right_N.astype(np.float64))
    for part_N, (_, weight) in zip(parts, reward.terms, strict=True):
        part_advantage_N, part_tokens = of(part_N)
        total_N = total_N + weight * part_advantage_N
        if tokens is not None and part_tokens is not None:
            tokens = tuple(
                {segment: value + weight * more[segment] for segment, value in one.items()}
                for one, more in zip(tokens, part_tokens, strict=True)
            )
    return total_N, tokens


def select_all(
    groups: Sequence[Group],
    right_N: NDArray[np.bool_],
    length_N: NDArray[Any],
    reward_N: F64,
    reward: RewardSettings,
    scene: Scene,
) -> Selected:
    """Which responses of this rank are trained, and against which they are compared."""
    own = responses_of(groups, right_N, length_N, (), scene)
    if not len(own):
        nothing_N = np.zeros(0, bool)
        return Selected(nothing_N, nothing_N)
    return reward.selection(own, reward_N, scene.states.get(SELECTION, {}))


def first_states(reward: RewardSettings) -> dict[str, Any]:
    """State of every shaping and of the selection at the start of a run."""
    states = {state_key(index): shaping.first_state() for index, shaping in _stateful(reward)}
    return states | ({SELECTION: reward.selection.first_state()} if reward.selection.scope == "history" else {})


def next_states(
    groups: Sequence[Group],
    right_N: NDArray[np.bool_],
    length_N: NDArray[Any],
    reward_N: F64,
    reward: RewardSettings,
    scene: Scene,
) -> dict[str, Any]:
    """The states after a generation; ``groups`` are this rank's of those that were judged in it for the first time."""
    stateful = _stateful(reward)
    if not stateful and reward.selection.scope != "history":
        return {}
    needs = set[str]().union(*(shaping.needs for _, shaping in stateful))
    whole, _ = everywhere(responses_of(groups, right_N, length_N, needs, scene), scene.gather)
    parts = scene.gather((np.repeat([group.id for group in groups], [len(g.rollouts) for g in groups]), reward_N))
    id_N, all_N = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    if not len(whole):
        return dict(scene.states)
    states = {
        state_key(index): shaping.next_state(replace(whole, state=scene.states[state_key(index)]))
        for index, shaping in stateful
    }
    if reward.selection.scope == "history":
        ordered_N = all_N[np.argsort(id_N, kind="stable")]
        states[SELECTION] = reward.selection.next_state(whole, ordered_N, scene.states[SELECTION])
    return states


def state_metrics(states: Mapping[str, Any]) -> dict[str, float]:
    """The plain numbers among the states, such as an adaptive weight, for the log."""
    return {
        f"shaping/{key}": float(value)
        for state in states.values()
        for key, value in state.items()
        if isinstance(value, int | float)
    }


SELECTION = "reward.selection"
"""Key of the selection's state."""


def state_key(index: int) -> str:
    """Key of a shaping's state: its section."""
    return "reward.shaping" if index == 0 else f"reward.more[{index - 1}]"


def _stateful(reward: RewardSettings) -> list[tuple[int, Any]]:
    return [(index, shaping) for index, (shaping, _) in enumerate(reward.terms) if shaping.scope == "history"]


def _shape(
    shaping: Any, own: Responses, whole: tuple[Responses, NDArray[np.int64]] | None, state: dict[str, Any]
) -> F64:
    """Rewards of this rank's responses, (N,)."""
    if shaping.scope in WHOLE:
        assert whole is not None
        responses, mine_N = whole
        reward_N: F64 = shaping(replace(responses, state=state)) if len(responses) else np.zeros(0)
        return reward_N[mine_N]
    reward_N = np.zeros(len(own))
    for rows in own.by_group():
        reward_N[rows] = shaping(own.select(rows))
    return reward_N
