"""What a selection is: of the responses of each group, which are trained, and against which they are compared.

A selection stands between rewards and credit. It changes no reward: a response that is not kept gets advantage 0, and
stays in the counts that the normalizers divide by.

    advantage = credit(reward where counted, else none) where kept, else 0

One whose choice depends on what earlier generations gave (scope ``history``) holds no state itself: ``next_state``
says how it goes on, as with shapings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..shaping.base import F64, Responses

# Shapes: N responses of a generation


@dataclass(frozen=True, slots=True)
class Selected:
    """Flags of the responses of a generation, (N,)."""

    keep_N: NDArray[np.bool_]
    """Trained; all others get advantage 0."""
    counted_N: NDArray[np.bool_]
    """Whose rewards the statistics of their group are taken from; all that are kept are among them."""


class Selection(Protocol):
    """A frozen dataclass whose fields are its settings; ``SelectionDefaults`` has what most share."""

    @property
    def name(self) -> str:
        """The id in configs."""

    @property
    def scope(self) -> Literal["group", "history"]: ...

    def check(self, rollout: Any) -> None:
        """Refuse a run in which it would keep every response; ``rollout`` is that section of the settings."""

    def first_state(self) -> dict[str, Any]:
        """State at the start of a run, ready for JSON."""

    def next_state(self, responses: Responses, reward_N: F64, state: Mapping[str, Any]) -> dict[str, Any]:
        """State after a generation; called once per generation."""

    def __call__(self, responses: Responses, reward_N: F64, state: Mapping[str, Any]) -> Selected:
        """The choice in every group of a generation."""


class SelectionDefaults:
    """Base class: looks at one group at a time, remembers nothing."""

    scope: ClassVar[Literal["group", "history"]] = "group"

    def check(self, rollout: Any) -> None:
        """Nothing to refuse."""

    def first_state(self) -> dict[str, Any]:
        return {}

    def next_state(self, responses: Responses, reward_N: F64, state: Mapping[str, Any]) -> dict[str, Any]:
        return dict(state)


def selection_metrics(responses: Responses, reward_N: F64, selected: Selected) -> dict[str, float]:
    """Share of responses kept, and share of groups that differ in reward while their kept responses do not."""
    equal = []
    for rows_G in responses.by_group():
        kept = reward_N[rows_G[selected.keep_N[rows_G]]]
        equal.append(bool(np.ptp(reward_N[rows_G]) > 0 and len(np.unique(kept)) < 2))
    return {"selection/kept": float(selected.keep_N.mean()), "selection/equal_kept": float(np.mean(equal))}
