"""What a shaping is: outcomes and lengths of one group in, one reward per response out.

Length enters the reward here and nowhere else. A shaping declares what it looks at (``scope``), whose reward length
may move (``gate``) and the values it can give (``range()``), so that a trainer can refuse a setting before it starts.

Two invariants hold for every default, and a published form that breaks one must be asked for by name:
a right response never scores below a wrong one, and an all-wrong group gets equal rewards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import DataError

# Shapes: G responses of one prompt

Scope = Literal["response", "group", "batch", "history"]
"""What a reward depends on besides its own response."""
Gate = Literal["none", "correct_only", "sign_split"]
"""Where length may enter: in every reward, in those of right responses only, or by a rule of its own for each side."""


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
    """A frozen dataclass whose fields are its settings."""

    @property
    def name(self) -> str:
        """The id in configs."""

    @property
    def scope(self) -> Scope: ...

    @property
    def gate(self) -> Gate: ...

    def range(self) -> RewardRange:
        """The values the reward can take under these settings."""

    def __call__(self, right_G: ArrayLike, length_G: ArrayLike) -> NDArray[np.float64]:
        """Rewards of one group, float64 (G,), from outcomes (bool) and trained tokens (int)."""


def checked_group(right_G: ArrayLike, length_G: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Outcomes as bool and lengths as float64, both (G,). Raises ``DataError`` if they do not fit each other."""
    right, length = np.asarray(right_G), np.asarray(length_G, dtype=np.float64)
    if right.ndim != 1 or right.shape != length.shape or not right.size:
        raise DataError(
            f"a group has one outcome and one length per response, but their shapes are {right.shape} and "
            f"{length.shape}; pass two flat arrays of the same size, at least 1"
        )
    if not (np.isfinite(length).all() and length.min() >= 0):
        raise DataError(f"a length is {length.min()}, but lengths are token counts; pass finite numbers from 0 on")
    return right.astype(bool), length
