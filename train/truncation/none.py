"""`none`: answers are trained as they were sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from numpy.typing import ArrayLike

from ...rollout.records import Group


@dataclass(frozen=True)
class NoTruncation:
    """Nothing is cut."""

    name: ClassVar[str] = "none"

    def apply(self, group: Group, right_G: ArrayLike) -> tuple[Group, list[int]]:
        """The group itself and no cut leaves."""
        return group, []
