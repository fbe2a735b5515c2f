"""Invariants that hold for every shaping, and the exceptions that have to be asked for by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import DataError
from laconic.rewards.shaping import SHAPINGS, KimiLength, Shaping

CAP = 32_768
DEFAULTS = [pytest.param(shaping(), id=name) for name, shaping in SHAPINGS.items()]
KIMI = [KimiLength(w, gate, q) for w in (0.1, 1.0) for gate in ("correct_only", "sign_split") for q in (0.5, 0.9, 1.0)]
ALL = [*DEFAULTS, *(pytest.param(k, id=f"kimi-{k.weight}-{k.gate}-{k.max_quantile}") for k in KIMI)]
SAFE = [param for param in ALL if param.values[0].gate == "correct_only"]  # type: ignore[attr-defined]

LENGTHS = st.one_of(st.sampled_from([0, 1, CAP]), st.integers(0, CAP))
GROUPS = st.lists(st.tuples(st.booleans(), LENGTHS), min_size=1, max_size=64)
property_test = settings(max_examples=60, deadline=None, derandomize=True)


def split(rows: list[tuple[bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([right for right, _ in rows]), np.array([length for _, length in rows], dtype=np.int64)


@pytest.mark.parametrize("shaping", ALL)
@property_test
@given(rows=GROUPS)
def test_a_right_response_never_scores_below_a_wrong_one(shaping: Shaping, rows: list[tuple[bool, int]]) -> None:
    right_G, length_G = split(rows)
    reward_G = shaping(right_G, length_G)
    assert shaping.range().dominant
    assert reward_G[right_G].min(initial=np.inf) > reward_G[~right_G].max(initial=-np.inf)


@pytest.mark.parametrize("shaping", SAFE)
@property_test
@given(rows=GROUPS)
def test_an_all_wrong_group_gets_equal_rewards(shaping: Shaping, rows: list[tuple[bool, int]]) -> None:
    _, length_G = split(rows)
    assert np.ptp(shaping(np.zeros(len(length_G), bool), length_G)) == 0


@pytest.mark.parametrize("shaping", ALL)
@property_test
@given(rows=GROUPS)
def test_rewards_are_finite_float64_and_within_the_declared_range(
    shaping: Shaping, rows: list[tuple[bool, int]]
) -> None:
    right_G, length_G = split(rows)
    reward_G = shaping(right_G, length_G)
    assert (reward_G.dtype, reward_G.shape) == (np.float64, right_G.shape)
    for side_G, (low, high) in ((right_G, shaping.range().right), (~right_G, shaping.range().wrong)):
        assert ((reward_G[side_G] >= low - 1e-12) & (reward_G[side_G] <= high + 1e-12)).all()


@pytest.mark.parametrize("shaping", ALL)
@property_test
@given(rows=GROUPS, random=st.randoms(use_true_random=False))
def test_rewards_follow_a_permutation_of_the_group(shaping: Shaping, rows: list[tuple[bool, int]], random) -> None:  # type: ignore[no-untyped-def]
    right_G, length_G = split(rows)
    order_G = np.array(random.sample(range(len(rows)), len(rows)))
    assert np.array_equal(shaping(right_G, length_G)[order_G], shaping(right_G[order_G], length_G[order_G]))


@pytest.mark.parametrize("shaping", ALL)
@property_test
@given(rows=GROUPS)
def test_a_shorter_right_response_never_scores_below_a_longer_one(
    shaping: Shaping, rows: list[tuple[bool, int]]
) -> None:
    right_G, length_G = split(rows)
    order_G = np.argsort(length_G[right_G], kind="stable")
    assert (np.diff(shaping(right_G, length_G)[right_G][order_G]) <= 0).all()


@pytest.mark.parametrize("shaping", DEFAULTS)
def test_every_shaping_declares_its_name_scope_and_gate(shaping: Shaping) -> None:
    assert SHAPINGS[shaping.name] is type(shaping)
    assert shaping.scope in ("response", "group", "batch", "history")
    assert shaping.gate in ("none", "correct_only", "sign_split")


@pytest.mark.parametrize("shaping", DEFAULTS)
@pytest.mark.parametrize(
    ("right_G", "length_G"), [([], []), ([1, 0], [5]), ([[1]], [[5]]), ([1], [-1]), ([1], [float("nan")])]
)
def test_a_group_that_is_none_is_refused(shaping: Shaping, right_G: list[int], length_G: list[float]) -> None:
    with pytest.raises(DataError, match="length"):
        shaping(right_G, length_G)


def test_plain_shaping_is_the_outcome() -> None:
    assert SHAPINGS["none"]()([True, False, True], [5, 500, 0]).tolist() == [1.0, 0.0, 1.0]
    assert not SHAPINGS["none"]().range().shaped
