"""What a shaping is: what is known of some responses in, one reward per response out.

Length enters the reward here and nowhere else. A shaping declares what it looks at (``scope``, ``needs``), whose reward
length may move (``gate``) and the values it can give (``range()``), so that a trainer can refuse a setting before it
starts. One of scope ``response`` or ``group`` is called with one group at a time, one of scope ``batch`` or ``history``
with a whole generation. A shaping of scope ``history`` also says how its state goes on (``next_state``); it holds none
itself, so that a reward computed twice counts once and a resumed run continues.

Three invariants hold for every default, and a method whose published form breaks one names it in ``exceptions``:
a right response never scores below a wrong one, an all-wrong group gets equal rewards, and a shorter right response
never scores below a longer one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import DataError

# Shapes: N responses, of one prompt (scope response, group) or of a generation (scope batch, history)

F64 = NDArray[np.float64]
Scope = Literal["response", "group", "batch", "history"]
"""What a reward depends on besides its own response."""
Gate = Literal["none", "correct_only", "sign_split"]
"""Where length may enter: in every reward, in those of right responses only, or by a rule of its own for each side."""
Need = Literal["truncated", "thought", "budget", "critical", "ids", "problem", "cap", "exit", "chain"]
"""What besides outcome and length a shaping reads of ``Responses``; the trainer fills in no more than is needed."""
Invariant = Literal["dominance", "all_wrong", "monotone"]
"""Right above wrong; an all-wrong group gets equal rewards; shorter right responses score no less than longer ones."""


@dataclass(frozen=True, slots=True)
class Responses:
    """What a shaping may look at; arrays are (N,). What nobody needs is None."""

    right_N: NDArray[np.bool_]
    length_N: F64
    """Trained tokens, the end-of-sequence token included."""
    group_N: NDArray[np.int64]
    truncated_N: NDArray[np.bool_] | None = None
    """Ran into the completion cap; never right."""
    thought_N: F64 | None = None
    """Trained tokens before the end-of-thought mark: 0 where the answer comes at once, NaN where there is no mark."""
    budget_N: F64 | None = None
    """Tokens the prompt asks for; NaN where it asks for none."""
    critical_N: F64 | None = None
    """Tokens on the longest dependency path (T_crit); less than the length where threads ran beside each other."""
    ids_N: tuple[NDArray[np.int32], ...] | None = None
    """Trained tokens."""
    problem_N: tuple[str, ...] | None = None
    """Ids of the problems."""
    exit_N: F64 | None = None
    """Tokens of the thought that the response stands on; less than the whole thought where it was cut for an answer."""
    chain_N: NDArray[np.int64] | None = None
    """Which thought of the group that is; a number of its own for each response that shares its thought with none."""
    cap: int | None = None
    """Longest response in tokens, ``rollout.max_completion``."""
    step: int = 0
    """Generation, from 0."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """State of a shaping of scope ``history``, as ``first_state`` or ``next_state`` returned it."""

    def __len__(self) -> int:
        return len(self.right_N)

    @classmethod
    def of(cls, right_N: ArrayLike, length_N: ArrayLike, group_N: ArrayLike | None = None, **more: Any) -> Responses:
        """From anything like arrays; without ``group_N`` all are of one group.

        Raises:
            DataError: the shapes differ, there is no response, or a length is no token count.
        """
        right, length = np.asarray(right_N), np.asarray(length_N, dtype=np.float64)
        group = np.zeros(right.shape, np.int64) if group_N is None else np.asarray(group_N, np.int64)
        if right.ndim != 1 or not right.shape == length.shape == group.shape or not right.size:
            raise DataError(
                f"a response has one outcome, one length and one group, but their shapes are {right.shape}, "
                f"{length.shape} and {group.shape}; pass flat arrays of the same size, at least 1"
            )
        if not (np.isfinite(length).all() and length.min() >= 0):
            raise DataError(f"a length is {length.min()}, but lengths are token counts; pass finite numbers from 0 on")
        return cls(right.astype(bool), length, group, **more)

    def select(self, rows_n: NDArray[Any]) -> Responses:
        """Only these responses: indices or flags."""
        index_n = np.arange(len(self))[rows_n]
        chosen: dict[str, Any] = {}
        for name in (f.name for f in fields(self) if f.name.endswith("_N")):
            value = getattr(self, name)
            if value is not None:
                chosen[name] = tuple(value[i] for i in index_n) if isinstance(value, tuple) else value[index_n]
        return replace(self, **chosen)

    def by_group(self) -> Iterator[NDArray[np.int64]]:
        """Indices of the responses of each group, in the order in which groups first appear."""
        _, first_P, index_N = np.unique(self.group_N, return_index=True, return_inverse=True)
        for group in np.argsort(first_P, kind="stable"):
            yield np.flatnonzero(index_N == group)


@dataclass(frozen=True, slots=True)
class RewardRange:
    """Smallest and largest reward of a right and of a wrong response."""

    right: tuple[float, float]
    wrong: tuple[float, float]

    @property
    def dominant(self) -> bool:
        """Whether every right response scores above every wrong one."""
        return self.right[0] > self.wrong[1]

    @property
    def shaped(self) -> bool:
        """Whether anything but the outcome moves the reward."""
        return self.right[0] < self.right[1] or self.wrong[0] < self.wrong[1]


class Shaping(Protocol):
    """A frozen dataclass whose fields are its settings; ``ShapingDefaults`` has what most share."""

    @property
    def name(self) -> str:
        """The id in configs."""

    @property
    def scope(self) -> Scope: ...

    @property
    def gate(self) -> Gate: ...

    @property
    def needs(self) -> frozenset[Need]: ...

    @property
    def exceptions(self) -> Mapping[Invariant, str]:
        """Invariants that do not hold under these settings, each with the reason."""

    def range(self) -> RewardRange:
        """The values the reward can take under these settings."""

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (N,)."""


class ShapingDefaults:
    """Base class: needs nothing but outcomes and lengths, breaks no invariant, remembers nothing."""

    needs: ClassVar[frozenset[Need]] = frozenset()

    @property
    def exceptions(self) -> Mapping[Invariant, str]:
        return {}

    def first_state(self) -> dict[str, Any]:
        """State at the start of a run, ready for JSON."""
        return {}

    def next_state(self, responses: Responses) -> dict[str, Any]:
        """State after a generation, from ``responses.state`` and all judged responses; called once per generation."""
        return dict(responses.state)
