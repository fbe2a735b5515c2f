"""Outcomes by group: group identity is data (``group_N``), and groups may differ in size and come in any order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError

# Shapes: N responses of all groups, P groups


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Which responses are right, and what that makes of their groups."""

    right_N: NDArray[np.bool_]
    id_P: NDArray[np.int64]
    """The group ids, ascending."""
    index_N: NDArray[np.int64]
    """The place of each response's group in ``id_P``."""
    all_right_P: NDArray[np.bool_]
    all_wrong_P: NDArray[np.bool_]

    @classmethod
    def of(cls, right_N: ArrayLike, group_N: ArrayLike) -> Outcomes:
        """From outcomes (bool) and group ids (int), both (N,). Raises ``DataError`` if their shapes differ."""
        outcome_N, id_P, index_N = index_groups(right_N, group_N, "outcome")
        right = outcome_N.astype(bool)
        right_P = np.bincount(index_N, weights=right, minlength=len(id_P))
        count_P = np.bincount(index_N, minlength=len(id_P))
        return cls(right, id_P, index_N, right_P == count_P, right_P == 0)

    def share(self, mask_P: NDArray[np.bool_]) -> float:
        """Share of groups in ``mask_P``; 0 without groups."""
        return float(mask_P.mean()) if len(mask_P) else 0.0


def index_groups(
    value_N: ArrayLike, group_N: ArrayLike, value: str
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """The values as an array (N,), the group ids, ascending (P,), and the place of each value's group in them (N,).

    Raises ``DataError`` if the shapes differ; ``value`` names in it what the values are.
    """
    values, group = np.asarray(value_N), np.asarray(group_N, dtype=np.int64)
    if values.ndim != 1 or values.shape != group.shape:
        raise DataError(
            f"every response has one {value} and one group id, but their shapes are {values.shape} and "
            f"{group.shape}; pass two flat arrays of the same size"
        )
    id_P, index_N = np.unique(group, return_inverse=True)
    return values, id_P, index_N
