"""Paired statistics: worked numbers, resampling, and what a verdict needs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import ConfigError
from laconic.eval.pairing import (
    AES,
    PairedDelta,
    aes,
    geometric_ratio,
    non_inferiority,
    paired_delta,
    ratio_of_sums,
)
from laconic.eval.resampling import sign_flip

near = pytest.approx
BASE_LENGTH, NEW_LENGTH = [8000, 4000, 16000], [4000, 3000, 12000]


def test_paired_difference_cancels_the_spread_of_the_problems() -> None:
    found = paired_delta([1, 0.5, 0.25, 0], [1, 0.75, 0.5, 0])
    assert (found.delta, found.se) == near((0.125, 0.0721688), rel=1e-6)
    assert (found.p, found.p_method) == (0.5, "exact")


def test_random_flips_agree_with_all_of_them() -> None:
    delta_P = np.array([3, -1, 2, 2, 4, -2, 1, 3, 2, -1, 1, 2, 2, -3, 1, 1], float)
    exact, method = sign_flip(delta_P, 100_000, 0)
    assert method == "exact"
    # Two more differences so small that they change nothing but the number of problems.
    sampled, method = sign_flip(np.concatenate([delta_P, [1e-15, -1e-15]]), 100_000, 0)
    assert method == "100000 flips" and sampled == near(exact, abs=0.005)


def test_sign_flips_are_reproducible_and_never_zero() -> None:
    delta_P = np.ones(200)
    assert sign_flip(delta_P, 1000, 7) == sign_flip(delta_P, 1000, 7) == (1 / 1001, "1000 flips")


def test_unchanged_problems_prove_only_as_much_as_their_number() -> None:
    few, many = paired_delta([1] * 3, [1] * 3), paired_delta([1] * 3000, [1] * 3000)
    assert few.degenerate and few.p == 1
    assert non_inferiority(few, 0.01)[0] == "undecided"
    assert non_inferiority(many, 0.01)[0] == "non-inferior"


def test_problems_that_change_alike_but_for_rounding_prove_no_more() -> None:
    base_P, new_P = [0, 2 / 3], [1 / 3, 1]
    assert new_P[0] - base_P[0] != new_P[1] - base_P[1], "thirds are not exact"
    found = paired_delta(base_P, new_P)
    low, high = found.ci95 or (0, 0)
    assert found.degenerate and high - low > 1


@pytest.mark.parametrize(
    ("ci95", "verdict"),
    [((-0.009, 0.01), "non-inferior"), ((-0.05, -0.02), "inferior"), ((-0.02, 0.01), "undecided"), (None, "undecided")],
)
def test_verdict_compares_the_interval_with_the_margin(ci95: tuple[float, float] | None, verdict: str) -> None:
    found, sentence = non_inferiority(PairedDelta(0.0, 0.005, ci95, 1.0, "exact", 10, False), 0.01)
    assert found == verdict and sentence.startswith(verdict)


def test_a_margin_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="0.01 is one point"):
        non_inferiority(paired_delta([1, 0], [1, 0.5]), 0)


def test_ratios_of_what_is_paid_and_of_the_typical_problem() -> None:
    assert ratio_of_sums(BASE_LENGTH, NEW_LENGTH).value == near(0.6785714, rel=1e-6)
    assert geometric_ratio(BASE_LENGTH, NEW_LENGTH).value == near(0.6551853, rel=1e-6)


def test_ratio_intervals_are_reproducible_and_contain_the_ratio() -> None:
    rng = np.random.default_rng(0)
    base_P = rng.integers(50, 500, 200)
    new_P = np.round(base_P * rng.uniform(0.3, 0.5, 200))
    found = ratio_of_sums(base_P, new_P, draws=2000, seed=3)
    assert found == ratio_of_sums(base_P, new_P, draws=2000, seed=3)
    low, high = found.ci95 or (math.nan, math.nan)
    assert low < found.value < high and high - low < 0.03


def test_bootstrap_agrees_with_the_delta_method() -> None:
    rng = np.random.default_rng(1)
    base_P, new_P = rng.gamma(4, 50, 400), rng.gamma(4, 25, 400)
    found = ratio_of_sums(base_P, new_P)
    low, high = found.ci95 or (0, 0)
    se = (new_P - found.value * base_P).std(ddof=1) / math.sqrt(400) / base_P.mean()
    assert (high - low) / (2 * 1.96) == near(se, rel=0.05)


def test_problems_without_tokens_have_no_log_ratio() -> None:
    assert geometric_ratio([0, 100, 100], [5, 50, 50]).value == near(0.5)
    assert math.isnan(geometric_ratio([0], [0]).value)
    assert math.isnan(ratio_of_sums([0, 0], [1, 1]).value)


def test_aes_worked_numbers() -> None:
    assert float(AES()(0.40, 10_000, 0.42, 6000)) == near(0.55)
    assert float(AES()(0.40, 10_000, 0.38, 6000)) == near(0.15)
    assert math.isnan(float(AES()(0.0, 10_000, 0.38, 6000)))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 500)), min_size=2, max_size=20))
def test_the_base_against_itself_scores_nothing(rows: list[tuple[int, int]]) -> None:
    right_P, length_P = np.array([right / 4 for right, _ in rows]), np.array([length for _, length in rows])
    found = aes(right_P, length_P, right_P, length_P, draws=50)
    assert (math.isnan(found.value) and not right_P.any()) or (found.value == 0 and found.ci95 == near((0, 0)))
    assert paired_delta(right_P, right_P).delta == 0
    assert ratio_of_sums(length_P, length_P, draws=50).value == 1


def test_sides_of_different_size_are_refused() -> None:
    with pytest.raises(ConfigError, match="one number per problem"):
        paired_delta([1, 0], [1])
