"""What credit is: rewards in, one advantage per rollout or one per token out.

A method is a frozen dataclass whose fields are its settings. ``assign`` knows in which of two ways it is called:

    method(reward_N, group_N)                    one advantage per rollout, from rewards and group ids
    method.on_trees(reward_N, groups, gather)    one advantage per token, for methods that look at trees

One of ``scope = "batch"`` normalises over all ranks: it also takes lengths and ``gather``, which exchanges a few arrays
between ranks. All others look at one group at a time, and a group is whole on its rank. A method that cannot work, or
would do nothing, under the settings of a run says so before it starts (``check``).

A reward that is NaN could not be scored: it moves no baseline, and its rollout has advantage 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import ConfigError, DataError
from ...rollout.bounds import PerPrompt
from ...rollout.records import Group, Kind, Rollout

# Shapes: N rollouts of all groups, T tokens of a segment

F64 = NDArray[np.float64]
Scope = Literal["group", "batch"]
Gather = Callable[[Any], list[Any]]
"""The values of all ranks, by rank, from this rank's."""
TokenAdvantage = Mapping[int, F64]
"""Sampled segment -> advantage of each of its tokens, (T,): for one rollout, every sampled segment on its path."""


class Credit(Protocol):
    """Advantages per rollout."""

    @property
    def name(self) -> str: ...

    def __call__(self, reward_N: ArrayLike, group_N: ArrayLike) -> F64:
        """Advantages, float64 (N,)."""


@runtime_checkable
class TreeCredit(Protocol):
    """Advantages per token."""

    def on_trees(self, reward_N: ArrayLike, groups: Sequence[Group], gather: Gather) -> list[TokenAdvantage]:
        """One mapping per rollout, in the order of groups and of rollouts within each."""


class LeafCredit:
    """Base class of credit that needs rollouts of one leaf each."""

    name: ClassVar[str]

    def check(self, settings: Any) -> None:
        """Raise ``ConfigError`` where a rollout may have several leaves; ``settings`` are the whole run's."""
        rollout = settings.rollout
        bounds = PerPrompt.of(rollout.driver, rollout.group_size, rollout.max_completion)
        if bounds.rows != bounds.rollouts:
            raise ConfigError(
                f"credit {self.name} compares leaves, but each rollout of rollout.driver "
                f"{getattr(rollout.driver, 'name', type(rollout.driver).__name__)} has up to "
                f"{bounds.rows // bounds.rollouts} leaves and one reward; choose driver treepo or eptree, or "
                "credit.name=dr_grpo"
            )


def alone(value: Any) -> list[Any]:
    """What ``gather`` is with one rank."""
    return [value]


def assign(
    method: Any, reward_N: ArrayLike, groups: Sequence[Group], gather: Gather = alone
) -> tuple[F64, tuple[TokenAdvantage, ...] | None]:
    """Advantages (N,), and those of tokens where the method gives them.

    Where it does, a rollout's own advantage is the mean over its trained tokens, which may be 0 where theirs are not.
    """
    if isinstance(method, TreeCredit):
        tokens = tuple(method.on_trees(reward_N, groups, gather))
        rollouts = [(group, rollout) for group in groups for rollout in group.rollouts]
        mean_N = [mean_advantage(*one, advantage) for one, advantage in zip(rollouts, tokens, strict=True)]
        return np.array(mean_N, np.float64), tokens
    group_N = np.repeat(np.arange(len(groups)), [len(group.rollouts) for group in groups])
    if getattr(method, "scope", "group") == "batch":
        length_N = np.array([group.trained_tokens(r) for group in groups for r in group.rollouts], np.float64)
        return method(reward_N, group_N, length_N, gather), None
    return method(reward_N, group_N), None


def mean_advantage(group: Group, rollout: Rollout, advantage: TokenAdvantage) -> float:
    """Mean over the rollout's trained tokens; 0 without any."""
    parts = [advantage[segment][:kept] for segment, kept in group.trained(rollout).items()]
    tokens = sum(map(len, parts))
    return float(sum(part.sum() for part in parts)) / tokens if tokens else 0.0


def constant(group: Group, rollout: Rollout, value: float) -> dict[int, F64]:
    """The same advantage for all tokens of a rollout."""
    return {segment: np.full(len(group.segments[segment]), value) for segment in group.trained(rollout)}


def lone_leaf(group: Group, rollout: Rollout, method: str) -> int:
    """The leaf of a rollout that has one.

    Raises:
        DataError: it has several, of which each would need a reward of its own.
    """
    if len(rollout.leaves) != 1:
        raise DataError(
            f"credit {method} needs a reward for every leaf, but a rollout of group {group.id} has "
            f"{len(rollout.leaves)} leaves and one reward; choose a driver whose rollouts have one leaf each (treepo, "
            "eptree, or anytime with rollout.driver.unit=summary), or credit.name=dr_grpo"
        )
    return rollout.leaves[0]


def rewards_by_group(reward_N: ArrayLike, groups: Sequence[Group]) -> list[F64]:
    """The rewards of each group's rollouts.

    Raises:
        DataError: not one reward per rollout, or an infinite one.
    """
    reward = np.asarray(reward_N, np.float64)
    sizes = [len(group.rollouts) for group in groups]
    if reward.shape != (sum(sizes),) or np.isinf(reward).any():
        raise DataError(
            f"there are {sum(sizes)} rollouts, but the rewards have shape {reward.shape} and "
            f"{int(np.isinf(reward).sum())} of them are infinite; pass one number per rollout, NaN if it has no score"
        )
    return np.split(reward, np.cumsum(sizes)[:-1]) if sizes else []


def is_sampled(group: Group, segment: int) -> bool:
    """Whether a segment's tokens are trained."""
    return group.segments[segment].kind is Kind.SAMPLED
