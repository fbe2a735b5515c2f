"""Filters look at outcomes, group by id, and do not care about order or group sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import DataError
from laconic.rewards.filters import frac_all_right, frac_all_wrong, signal

OUTCOMES = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=64)


def test_a_group_is_kept_when_both_outcomes_occur_whatever_the_order_of_rows() -> None:
    group_N = [7, 3, 7, 9, 3, 9, 9, 11]
    right_N = [1, 1, 0, 0, 1, 0, 0, 1]
    assert signal(right_N, group_N).tolist() == [False, True, False, False]  # Groups 3, 7, 9, 11.
    assert frac_all_right(right_N, group_N) == 0.5
    assert frac_all_wrong(right_N, group_N) == 0.25


@settings(max_examples=100, deadline=None, derandomize=True)
@given(OUTCOMES)
def test_every_group_is_all_right_all_wrong_or_kept(rows: list[tuple[int, bool]]) -> None:
    group_N, right_N = np.array(rows).T
    total = frac_all_right(right_N, group_N) + frac_all_wrong(right_N, group_N) + signal(right_N, group_N).mean()
    assert total == pytest.approx(1.0, abs=1e-12)


def test_no_responses_make_no_groups() -> None:
    assert signal([], []).shape == (0,)
    assert frac_all_right([], []) == frac_all_wrong([], []) == 0.0


def test_outcomes_and_groups_of_different_sizes_are_refused() -> None:
    with pytest.raises(DataError, match="one outcome and one group id"):
        signal([1, 0], [1])
