"""Which groups teach something, by outcomes alone.

A group whose responses are all right or all wrong gives no advantage under an outcome reward. Filters look at
outcomes, never at shaped rewards: with a length term nearly every group has different rewards, and such a filter would
drop nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .grouping import Outcomes

# Shapes: N responses of all groups, P groups


def signal(right_N: ArrayLike, group_N: ArrayLike) -> NDArray[np.bool_]:
    """Whether a group has both outcomes, bool (P,), in ascending order of group id (that of ``numpy.unique``)."""
    outcomes = Outcomes.of(right_N, group_N)
    return ~(outcomes.all_right_P | outcomes.all_wrong_P)


def frac_all_right(right_N: ArrayLike, group_N: ArrayLike) -> float:
    """Share of groups with right responses only; 0 without groups."""
    outcomes = Outcomes.of(right_N, group_N)
    return outcomes.share(outcomes.all_right_P)


def frac_all_wrong(right_N: ArrayLike, group_N: ArrayLike) -> float:
    """Share of groups without a right response; 0 without groups."""
    outcomes = Outcomes.of(right_N, group_N)
    return outcomes.share(outcomes.all_wrong_P)
