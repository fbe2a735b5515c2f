"""`gvm`: allocation with its worked numbers, edges and corrections; estimates; what a dry run says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import ConfigError
from laconic.train.checks import check_settings
from laconic.train.derived import derive, summary
from laconic.train.samplers import Gvm, Outcome
from laconic.train.samplers.allocation import allocate, raw_weights, rounded, shares
from laconic.train.settings import load_settings

NORMS, RATES = [2, 1, 1, 3], [0.25, 0.5, 1, 0]
CONFIG = "configs/methods/gvm.yaml"


def test_worked_numbers_of_the_weights():
    weight = raw_weights(NORMS, RATES)
    np.testing.assert_allclose(weight, [3.968379, 1.411394, 0.999500, 0], atol=5e-7)
    np.testing.assert_allclose(shares(weight, RATES, 16), [0.622074, 0.221247, 0.156679, 0], atol=5e-7)
    np.testing.assert_allclose(16 * shares(weight, RATES, 16), [9.953, 3.540, 2.507, 0], atol=5e-4)


def test_worked_numbers_of_the_rounding():
    share = shares(raw_weights(NORMS, RATES), RATES, 16)
    assert np.rint(16 * share).tolist() == [10, 4, 3, 0], "one too many: the smallest residual, -0.493, is the third's"
    assert rounded(share, 16).tolist() == [10, 4, 2, 0]
    assert Gvm().counts(NORMS, RATES, 16) == Gvm(least=0).counts(NORMS, RATES, 16) == [10, 4, 2, 0]


def test_halves_round_to_even_and_ties_of_the_correction_go_to_the_first():
    assert rounded(np.array([0.25, 0.25, 0.25, 0.25]), 2).tolist() == [1, 1, 0, 0], "0.5 each rounds to 0, two missing"
    assert rounded(np.array([0.25, 0.25, 0.25, 0.25]), 6).tolist() == [1, 1, 2, 2], "1.5 each rounds to 2, two too many"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=40), st.integers(1, 600), st.integers(0, 4))
def test_counts_sum_to_the_total_and_are_close_to_the_shares(weights, total, least):
    share = shares(np.array(weights), np.ones(len(weights)), total)
    count = rounded(share, total)
    assert count.sum() == total and count.min() >= 0 and np.abs(count - share * total).max() <= 1
    assert not count[share == 0].any()
    fewer = allocate(share, total, least)
    assert fewer.sum() == total and (((fewer == 0) | (fewer >= least)).all() or (fewer > 0).sum() == 1)


def test_prompts_without_a_right_answer_or_a_gradient_get_nothing():
    assert raw_weights([0, 1, 1], [0.5, 0, 0.5]).tolist()[:2] == [0, 0]
    assert Gvm().counts([0, 1, 1], [0.5, 0, 0.5], 8) == [0, 0, 8]


def test_without_any_weight_all_prompts_get_the_same():
    assert Gvm().counts([0, 0, 0, 0], [0, 0, 0, 0], 16) == [4, 4, 4, 4]
    assert Gvm(filter_threshold=0.9).counts([1, 1], [1, 1], 8) == [4, 4]


def test_rare_success_is_discounted_and_without_alpha_it_is_not():
    tiny = raw_weights([1, 1], [1e-4, 0.25])
    assert tiny[0] < tiny[1]
    published, plain = raw_weights([1], [1e-4])[0], raw_weights([1], [1e-4], alpha=0)[0]
    assert published == pytest.approx(1 / np.sqrt(1e-4 + 10)) and plain == pytest.approx(100)
    assert raw_weights([1], [1e-8])[0] / raw_weights([1], [1e-6])[0] == pytest.approx(0.1, rel=1e-3), "p^((beta-1)/2)"


def test_filters_act_only_above_0_and_the_rest_is_scaled_up_once():
    weight, rate = np.array([1.0, 1.0, 2.0]), np.array([1.0, 0.5, 0.25])
    np.testing.assert_allclose(shares(weight, rate, 8, 0), [0.25, 0.25, 0.5])
    np.testing.assert_allclose(shares(weight, rate, 8, 1), [0.25, 0.25, 0.5])
    np.testing.assert_allclose(shares(weight, rate, 8, 0.9), [0, 1 / 3, 2 / 3])
    # right answers to expect: 2, 1, 1
    np.testing.assert_allclose(shares(weight, rate, 8, 0, 1.5), [1, 0, 0])
    # after the first filter the others' shares are still 1/4 and 1/2, so that 1 is to be expected of each
    np.testing.assert_allclose(shares(weight, rate, 8, 0.9, 1), [0, 1 / 3, 2 / 3])


def test_prompts_with_too_few_answers_to_compare_leave_them_to_others():
    share = np.array([0.8, 0.1, 0.1])
    assert rounded(share, 10).tolist() == [8, 1, 1]
    assert allocate(share, 10, least=2).tolist() == [10, 0, 0], "without the last, the second still has one"
    assert allocate(np.array([0.5, 0.3, 0.2]), 5, least=2).tolist() == [3, 2, 0]


def test_a_pilot_round_is_looked_at_and_not_trained():
    sampler = Gvm(pilot=4, norm="sqrt_length").build(20, seed=0)
    pilot = sampler.ask(4, 4)
    assert not pilot.trained and pilot.sizes == [4] * 4 and sampler.norm == "sqrt_length"
    norms, rights = [2, 1, 1, 3], [1, 2, 4, 0]
    sampler.record_outcomes(
        [Outcome(i, 4, right, norm * right) for i, norm, right in zip(pilot.indices, norms, rights, strict=True)]
    )
    ask = sampler.ask_again(4, 4, passed=0)
    assert ask.trained and (ask.indices, ask.sizes) == (pilot.indices[:3], [10, 4, 2])
    assert sampler.norm == "none", "nothing is to be known of the answers that are trained"
    before = sampler.state_dict()
    sampler.record_outcomes([Outcome(ask.indices[0], 10, 10)])
    assert sampler.state_dict() == before
    assert sampler.ask_again(4, 4, passed=0) is None
    assert sampler.metrics() == {"sampler/left_out": 0.25, "sampler/largest_group": 10}


def test_history_costs_nothing_and_an_unknown_problem_counts_as_the_mean():
    sampler = Gvm(estimate="history", norm="sqrt_length").build(4, seed=0)
    first = sampler.ask(4, 8)
    assert first.trained and first.sizes == [8] * 4, "nothing is known yet"
    a, b, c, d = first.indices
    sampler.record_outcomes([Outcome(a, 8, 8, 8.0), Outcome(b, 8, 2, 2.0), Outcome(c, 8, 0)])
    assert sampler.ask_again(4, 8, 0) is None
    size = dict(zip((a, b, c, d), sampler.sizes([a, b, c, d], 8), strict=True))
    assert size[b] > size[d] > size[a] > size[c] == 0, "a rate of 1/4, of the mean 5/12, of 1, and of 0"
    assert sum(size.values()) == 32


def test_what_got_nothing_for_some_epochs_is_tried_again():
    sampler = Gvm(estimate="history", norm="sqrt_length").build(2, seed=0)
    hopeless = sampler.ask(2, 8).indices[0]
    sampler.record_outcomes([Outcome(0, 8, 0 if hopeless == 0 else 4, 4), Outcome(1, 8, 0 if hopeless == 1 else 4, 4)])
    tried = [hopeless in sampler.ask(2, 8).indices for _ in range(5)]
    assert tried == [False, False, False, False, True], "8 answers, halved until less than one is left"


def test_the_total_is_the_smaller_of_what_is_asked_and_the_mean_group():
    assert sum(Gvm(samples=10).build(9, 0).sizes([0, 1, 2, 3], 4)) == 10
    assert sum(Gvm(samples=99).build(9, 0).sizes([0, 1, 2, 3], 4)) == 16


@pytest.mark.parametrize(
    "options",
    [{"pilot": 0}, {"alpha": -1.0}, {"beta": 0.5}, {"memory": 2.0}, {"filter_threshold": 1.5}, {"least": -1},
     {"filter_insufficient": -1.0}, {"samples": 1}],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(options):
    with pytest.raises(ConfigError, match=f"sampler.{next(iter(options))}"):
        Gvm(**options)


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        (["rollout.park_after=16"], "leave it out"),
        (["rollout.driver={name: delethink, chunk: 64, head: 8, tail: 16, max_chunks: 3}"], "sampler.norm=sqrt_length"),
    ],
)
def test_what_does_not_go_with_groups_of_different_sizes_is_refused(overrides, remedy):
    with pytest.raises(ConfigError, match=remedy):
        check_settings(load_settings(CONFIG, ["sampler.norm=embedding", *overrides]), None)


def test_the_dry_run_counts_the_pilot():
    given = load_settings(CONFIG, ["steps=10", "sampler.estimate=pilot", "sampler.pilot=8"])
    text = "\n".join(derive(given, None))
    assert "128 rollouts per step, shared out among the prompts; 8 x 8 more to estimate, not trained" in text
    assert summary(given, None)["rollouts_at_most"] == 10 * (8 * 16 + 8 * 8)
    free = load_settings(CONFIG, ["steps=10", "sampler.estimate=history"])
    assert summary(free, None)["rollouts_at_most"] == 10 * 8 * 16
