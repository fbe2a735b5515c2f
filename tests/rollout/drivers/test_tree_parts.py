"""The arithmetic of the segment tree: shares of a level, fallback, boxes and loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.rollout.drivers.tree_fallback import Ending, Finished, cut_back, order
from laconic.rollout.drivers.tree_paths import branching_weights, place
from laconic.rollout.drivers.tree_text import has_box, loops
from laconic.rollout.drivers.tree_width import affordable, allot, even_shares, level_total, softmax, weighted_shares
from laconic.rollout.records import Kind, Segment, prompt_group


def logps(*sums):
    return [np.full(10, total / 10, np.float32) for total in sums]


def test_branches_are_split_as_published():
    assert even_shares(8, 3) == [2, 2, 4]
    assert weighted_shares([0.5, 0.3, 0.2], 8) == [4, 2, 2]  # 2.5 and 1.5 tie
    assert weighted_shares([0.7, 0.2, 0.1], 6) == [3, 2, 1]
    np.testing.assert_allclose(softmax([-2, -1, 0]), [0.0900, 0.2447, 0.6652], atol=5e-5)
    assert allot("logprob_weighted_div", logps(-40, -50, -60), 8, 5, 10.0) == [2, 2, 4]


def test_the_divergence_policies_differ_in_what_they_look_at():
    paths = [np.array([-9, -1, -1], np.float32), np.array([-1, -4], np.float32)]  # sums -11, -5; means -3.7, -2.5
    for policy, likelier_gets_more, favoured in (
        ("logprob_weighted_div", False, 0),
        ("inverse_logprob_weighted_div", True, 1),
        ("norm_logprob_weighted_div", False, 0),
        ("norm_inv_logprob_weighted_div", True, 1),
        ("node_logprob_weighted_div", False, 1),  # the last token: -1 and -4
        ("inverse_node_logprob_weighted_div", True, 0),
    ):
        shares = allot(policy, paths, 10, 1, 0.1)
        assert shares[favoured] == 9 and sum(shares) == 10, (policy, likelier_gets_more)
    assert allot("fixed_avg", paths, 5, 1, 1.0) == [2, 3]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.floats(-60, 60), min_size=1, max_size=9), st.integers(0, 40))
def test_every_path_goes_on_and_all_branches_are_given_out(scores, extra):
    total = len(scores) + extra
    for shares in (weighted_shares(softmax(scores), total), even_shares(total, len(scores))):
        assert sum(shares) == total and min(shares) >= 1


def test_finished_paths_leave_their_width_to_live_ones_and_the_cap_holds():
    assert level_total(2 * (1 + 3), cap=16, finished=1, live=3) == 8
    assert level_total(2 * (0 + 8), cap=16, finished=4, live=8) == 12
    assert level_total(2 * 5, cap=4, finished=2, live=5) == 5
    assert affordable(1000, spent=400, tokens_each=250, finished=2, least=1, most=16) == 4
    assert affordable(1000, spent=990, tokens_each=250, finished=2, least=3, most=16) == 3
    assert affordable(10**6, spent=0, tokens_each=250, finished=2, least=3, most=16) == 16


def test_random_fallback_cuts_at_windows():
    rng = np.random.default_rng(0)
    logp = np.zeros(1300, np.float32)
    assert {cut_back(logp, "random", 512, 0, 128, rng) for _ in range(60)} == {1024, 512, 0}
    assert {cut_back(logp, "random", 512, 1, 128, rng) for _ in range(20)} == {1024}
    assert cut_back(logp[:512], "random", 512, 0, 128, rng) == 0
    assert cut_back(logp, "from_start", 512, 0, 128, rng) == 0


def test_fallback_by_log_prob_cuts_before_what_was_unlikely_or_likely():
    logp = np.full(10, -1, np.float32)
    logp[6] = -50
    assert cut_back(logp, "min_logprob_token", 4, 0, 128, np.random.default_rng(0)) == 6
    drawn = [cut_back(logp, cut, 4, 0, 3, np.random.default_rng(1)) for cut in ("block", "inverse_block")]
    assert drawn[0] == 6 and drawn[1] != 6


def test_who_is_fallen_back_to():
    ended = [
        Finished(1, Ending.REPETITION, 90),
        Finished(2, Ending.ANSWERED, 40),
        Finished(3, Ending.EOS, 50),
        Finished(4, Ending.LENGTH, 1),
        Finished(5, Ending.ANSWERED, 8),
        Finished(6, Ending.DEPTH, 30),
    ]

    def picks(policy, seed=0):
        return [answer.segment for answer in order(ended, policy, 16, np.random.default_rng(seed))]

    assert picks("finished_first_strict") == [1, 4, 6, 3, 2, 5]  # ascending, as published
    assert {tuple(sorted(picks("soft_boxed_and_eos", seed))) for seed in range(9)} == {(2, 3, 5)}
    assert picks("boxed_ge_window") == [2]
    assert (
        sorted(picks("random_all")) == [1, 2, 3, 4, 5, 6] and len({tuple(picks("random_all", s)) for s in range(9)}) > 1
    )
    first = [picks("longer_first", seed)[0] for seed in range(400)]
    assert first.count(1) / 400 == pytest.approx(90 / 219, abs=0.08)
    first = [picks("finished_first", seed)[0] for seed in range(400)]
    assert first.count(2) / 400 == pytest.approx(7 / 28, abs=0.07)
    assert order([], "finished_first", 1, np.random.default_rng(0)) == []


def test_a_box_counts_when_its_braces_are_closed():
    assert has_box(r"so \boxed{\frac{1}{2}}.") and has_box(r"\boxed{1 \boxed{2}")
    assert not has_box(r"so \boxed{\frac{1}{2}") and not has_box("boxed{4}") and not has_box("")


def test_a_text_loops_when_a_window_of_32_characters_occurs_8_times():
    assert loops("a" * 39) and not loops("a" * 38)  # windows overlap
    sentence = "This sentence is 40 characters long, yes"
    assert loops(sentence * 8) and not loops(sentence * 7) and not loops("")


def grown(*nodes):
    group = prompt_group(0, "p", [7, 8])
    segments = list(group.segments)
    for parent, offset, tokens in nodes:
        ids = np.arange(tokens, dtype=np.int32) + 10 * len(segments)
        segments.append(Segment(len(segments), parent, offset, Kind.SAMPLED, ids, np.zeros(tokens, np.float32)))
    return group.replace(segments=tuple(segments))


def test_a_leaf_weighs_one_over_the_children_along_its_path():
    group = grown((0, 2, 3), (0, 2, 4), (2, 4, 1), (2, 4, 1), (2, 4, 1))
    weights = branching_weights(group, [1, 3, 4, 5], 6)
    np.testing.assert_allclose(weights, [1 / 2, 1 / 6, 1 / 6, 1 / 6])
    assert np.dot(weights, [1, 0, 0, 1]) == pytest.approx(0.6667, abs=5e-5)
    assert np.mean([1, 0, 0, 1]) == 0.5
    # fallback after segment 5: its leaf weighs nothing, the others are as they were
    again = grown((0, 2, 3), (0, 2, 4), (2, 4, 1), (2, 4, 1), (2, 4, 1), (1, 2, 5))
    np.testing.assert_allclose(branching_weights(again, [1, 3, 4, 5, 6], 6), [1 / 2, 1 / 6, 1 / 6, 1 / 6, 0])
    np.testing.assert_allclose(branching_weights(again, [6], 6), [1])
    assert branching_weights(again, [], 6) == []


def test_an_offset_lies_in_the_segment_that_holds_its_last_token():
    group = grown((0, 2, 3), (1, 3, 4), (2, 1, 5))
    assert [place(group, 3, offset) for offset in (0, 1, 3, 4, 6, 9)] == [
        (0, 2),
        (1, 1),
        (1, 3),
        (2, 1),
        (3, 2),
        (3, 5),
    ]
