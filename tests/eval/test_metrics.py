"""Accuracy and token statistics: worked numbers, edges, and the coverage of the interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import ConfigError
from laconic.eval.metrics import (
    LoopRule,
    avg_at_k,
    by_level,
    mean_by_problem,
    pass_at_k,
    token_breakdown,
    tokens_per_correct,
    truncation_decomposition,
    wilson,
)
from laconic.eval.student_t import t_quantile, two_sided_tail

near = pytest.approx
RIGHT_N = [1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0]
PROBLEM_N = np.repeat(["a", "b", "c", "d"], 4)


def test_accuracy_is_clustered_by_problem() -> None:
    found = avg_at_k(RIGHT_N, PROBLEM_N)
    assert found.value == 0.4375
    assert found.se == near(0.2134781, rel=1e-6)
    assert found.se_fixed == near(0.0954703, rel=1e-6)
    assert found.s2_within == near(0.1458333, rel=1e-6)
    assert found.s2_between == near(0.1458333, rel=1e-6)
    assert found.ci95 == near((0.4375 - 3.1824463 * 0.2134781, 0.4375 + 3.1824463 * 0.2134781), rel=1e-6)


def test_equal_problems_fall_back_to_wilson_on_the_problems() -> None:
    found = avg_at_k([1] * 40, np.repeat(np.arange(10), 4))
    assert found.degenerate and found.interval == "wilson" and found.se == 0
    assert found.ci95 == near((0.7224672, 1.0), rel=1e-6)
    assert wilson(0.5, 10) == near((0.2365931, 0.7634069), rel=1e-6)


def test_a_single_problem_has_no_interval() -> None:
    found = avg_at_k([1, 0], ["a", "a"])
    assert found.ci95 is None and math.isnan(found.se) and found.interval == "none"


def test_a_single_sample_per_problem_has_no_rerun_error() -> None:
    found = avg_at_k([1, 0, 1], ["a", "b", "c"])
    assert math.isnan(found.se_fixed) and found.se == near(1 / 3)


def test_problems_count_equally_however_many_samples_they_have() -> None:
    found = mean_by_problem([1, 1, 1, 1, 0], ["a", "a", "a", "a", "b"])
    assert found.value == 0.5


def test_no_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        avg_at_k([], [])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(2, 8), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_order_of_samples_does_not_matter(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem_N, right_N = np.repeat(np.arange(n), k), rng.random(n * k) < 0.5
    order = rng.permutation(n * k)
    left, right = avg_at_k(right_N, problem_N), avg_at_k(right_N[order], problem_N[order])
    assert (left.value, left.se, left.se_fixed) == near((right.value, right.se, right.se_fixed), abs=1e-12)


def test_the_interval_covers_the_true_accuracy_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    problem_N, hits = np.repeat(np.arange(30), 32), 0
    for _ in range(500):
        rate = rng.beta(0.6, 1.2, 30)
        low, high = avg_at_k(rng.random(960) < np.repeat(rate, 32), problem_N).ci95 or (0, 0)
        hits += low <= 1 / 3 <= high
    assert 0.90 <= hits / 500 <= 0.98


@pytest.mark.parametrize(("k", "value"), [(1, 0.1875), (4, 0.6071429), (16, 1.0)])
def test_pass_at_k_is_unbiased(k: int, value: float) -> None:
    assert pass_at_k([1] * 3 + [0] * 13, ["a"] * 16, k) == near(value, rel=1e-6)


def test_pass_at_k_edges() -> None:
    assert pass_at_k([0] * 4, ["a"] * 4, 4) == 0
    assert pass_at_k([1] * 4, ["a"] * 4, 1) == 1
    assert pass_at_k(RIGHT_N, PROBLEM_N, 1) == near(0.4375)
    with pytest.raises(ConfigError, match="pass@5"):
        pass_at_k(RIGHT_N, PROBLEM_N, 5)


def test_tokens_are_split_by_outcome_and_truncation() -> None:
    found = token_breakdown(
        [1, 1, 2, 2], [100, 300, 200, 600], [1, 1, 0, 0], [90, 280, 190, 600], [0, 0, 0, 1], [0, 0, 0, 1]
    )
    assert (found.mean.value, found.median, found.max) == (300, 250, 600)
    assert (found.think_mean, found.answer_mean) == (290, 10)
    assert (found.correct_mean, found.incorrect_mean, found.not_truncated_mean) == (200, 400, 200)
    assert (found.trunc_rate, found.loop_rate) == (0.25, 0.25)
    assert (found.p90, found.p99) == near((510, 591))


def test_means_over_nothing_are_not_numbers() -> None:
    found = token_breakdown([1, 2], [5, 5], [0, 0], [0, 0], [1, 1], [0, 0])
    assert math.isnan(found.correct_mean) and math.isnan(found.not_truncated_mean)


def test_tokens_per_correct_answer() -> None:
    assert tokens_per_correct([1000, 3000, 2000, 6000], [1, 1, 0, 0], [1, 2, 3, 4]).value == 6000
    found = tokens_per_correct([1200, 2500, 4000, 9000], [1, 0.75, 0.5, 0.25], [1, 2, 3, 4])
    assert (found.value, found.se) == near((6680, 4393.81), rel=1e-6)
    assert tokens_per_correct([1000, 2000, 6000], [1, 0.5, 0.25], [1, 2, 3]).value == near(5142.857, rel=1e-6)
    assert tokens_per_correct([10, 20], [0, 0], [1, 2]).value == math.inf


def test_a_gain_is_split_into_fewer_runaways_and_shorter_answers() -> None:
    found = truncation_decomposition(32768, 0.20, 6000, 0.02, 4500)
    assert (found.base_mean, found.new_mean) == near((11353.6, 5065.36))
    assert (found.change, found.explained) == near((-0.5538543, 0.7662303), rel=1e-6)


def test_a_model_that_never_finishes_can_be_decomposed() -> None:
    found = truncation_decomposition(100, 1.0, math.nan, 0.5, 40)
    assert (found.base_mean, found.new_mean, found.explained) == near((100, 70, 1.0))
    assert math.isnan(truncation_decomposition(100, 1.0, math.nan, 1.0, math.nan).explained)


def test_levels_are_sorted_and_unknown_ones_left_out() -> None:
    rows = by_level([2, 2, 1, 1, -1], ["a", "a", "b", "b", "c"], [1, 0, 1, 1, 0], [10, 20, 4, 6, 9], [0, 1, 0, 0, 0])
    assert [(row.level, row.accuracy.value, row.tokens.value, row.trunc_rate) for row in rows] == [
        (1, 1.0, 5.0, 0.0),
        (2, 0.5, 15.0, 0.5),
    ]


def test_loops_are_repeated_grams_or_text_that_compresses_away() -> None:
    rule = LoopRule()
    assert rule([1, 2, 3] * 40, "")
    assert not rule([1, 2, 3] * 15, "")
    assert not rule(range(600), "every word of this is different")
    assert rule([1], "wait, " * 500)
    assert not rule([], "")


@pytest.mark.parametrize(
    ("df", "value"),
    [(1, 12.7062047), (3, 3.1824463), (29, 2.0452296), (499, 1.9647294), (100_000, 1.9599877)],
)
def test_t_quantiles_match_the_tables(df: int, value: float) -> None:
    assert t_quantile(0.975, df) == near(value, rel=1e-7)
    assert two_sided_tail(t_quantile(0.975, df), df) == near(0.05, rel=1e-9)


def test_t_quantile_refuses_what_it_cannot_answer() -> None:
    with pytest.raises(ValueError, match="df >= 1"):
        t_quantile(0.975, 0)
