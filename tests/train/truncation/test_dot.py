"""Dynamic Outlier Truncation: worked numbers, the books of a cut group, and settings without effect."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import ConfigError, DataError
from laconic.rewards.verdict import Judgement, Verdict
from laconic.rollout.records import Cost, Group, Kind, Leaf, Origin, Rollout, Segment, Stop
from laconic.train.checks import check_settings
from laconic.train.credit import DrGrpo
from laconic.train.metrics_log import read_metrics
from laconic.train.rows import flatten
from laconic.train.settings import load_settings
from laconic.train.truncation import TRUNCATIONS, Dot, NoTruncation
from laconic.train.truncation.cutting import cut_leaf

PROMPT = 3


def segment(id, parent, parent_off, kind, length, stop=None, origin=(), first=0):
    """Tokens count up from ``first``, so that each can be told from all others."""
    sampled = kind is Kind.SAMPLED
    logp = -np.arange(1, length + 1) / 7 if sampled else np.full(length, np.nan)
    context = PROMPT
    cost = Cost(length, context, 0, length * context + length * (length - 1) // 2) if sampled else Cost()
    ids = np.arange(first, first + length, dtype=np.int32)
    return Segment(id, parent, parent_off, kind, ids, logp.astype(np.float32), stop, tuple(origin), 0, cost)


def flat(lengths) -> Group:
    """One prompt and a sampled answer of each length."""
    prompt = segment(0, None, 0, Kind.PROMPT, PROMPT)
    answers = [segment(i + 1, 0, PROMPT, Kind.SAMPLED, n, Stop.EOS, first=1000 * i) for i, n in enumerate(lengths)]
    leaves = tuple(Leaf(i, i + 1) for i in range(len(lengths)))
    group = Group(5, "p", (prompt, *answers), leaves, tuple(Rollout((i,)) for i in range(len(lengths))))
    group.validate()
    return group


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [
        ([100] * 15 + [1000], 831),  # mean 156.25, std 225
        ([100] * 7 + [1000], 1000),  # mean 212.5, std 318.198: Tq 1167
        ([100] * 15 + [130], 130),  # mean 101.875, std 7.5: Tq 124, a cut of 6 is below the margin
        ([100] * 15 + [131], 131),
        ([77] * 16, 77),
    ],
)
def test_worked_numbers_of_the_threshold(lengths, kept):
    keep = Dot().cuts([True] * len(lengths), lengths)
    assert keep.dtype == np.int64
    assert keep.tolist() == lengths[:-1] + [kept]


def test_one_wrong_answer_leaves_the_group_alone_unless_the_threshold_allows_it():
    lengths, right = [100] * 15 + [1000], [False] + [True] * 15
    assert Dot().cuts(right, lengths).tolist() == lengths
    assert Dot(success_threshold=15 / 16).cuts(right, lengths)[-1] == 831


@pytest.mark.parametrize(
    ("size", "outliers", "z"),
    [(8, 1, 2.475), (10, 1, 2.846), (11, 1, 3.015), (16, 1, 3.75), (16, 2, 2.56),
     (32, 1, 5.48), (32, 2, 3.81), (32, 3, 3.06), (32, 4, 2.60)],
)  # fmt: skip
def test_how_far_above_the_mean_equal_outliers_can_lie(size, outliers, z):
    lengths = [0] * (size - outliers) + [10**6] * outliers
    for alpha, cut in ((z - 0.006, outliers), (z + 0.006, 0)):
        assert (Dot(alpha=alpha, margin=0).cuts([True] * size, lengths) < lengths).sum() == cut


@pytest.mark.parametrize(("margin", "kept"), [(169, 831), (170, 1000), (0, 831), (0.169, 831), (0.17, 1000)])
def test_a_cut_must_reach_the_margin_in_tokens_or_as_a_share_of_the_answer(margin, kept):
    # The cut is 169 of 1000 tokens.
    assert Dot(margin=margin).cuts([True] * 16, [100] * 15 + [1000])[-1] == kept


def test_a_relative_margin_is_at_least_sixteen_tokens():
    # mean 105, std 20: Tq 165 would cut 15 of 180 tokens, and of 181 16 (mean 105.0625, std 20.25, Tq 165).
    assert Dot(margin=0.01).cuts([True] * 16, [100] * 15 + [180])[-1] == 180
    assert Dot(margin=0.01).cuts([True] * 16, [100] * 15 + [181])[-1] == 165


def test_a_margin_of_zero_cuts_a_single_token_but_never_none():
    lengths = [10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 11]
    keep = Dot(margin=0).cuts([True] * 11, lengths)
    assert keep.tolist() == [10] * 11
    assert Dot(margin=0).cuts([True] * 11, [10] * 11).tolist() == [10] * 11


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 3000), st.booleans()), min_size=1, max_size=40),
    st.floats(0, 4),
    st.one_of(st.integers(0, 64).map(float), st.floats(0.01, 0.99)),
)
def test_nothing_is_lengthened_and_what_is_cut_is_cut_at_one_place_by_at_least_the_margin(answers, alpha, margin):
    length, right = (np.array(column) for column in zip(*answers, strict=True))
    keep = Dot(alpha=alpha, margin=margin).cuts(right, length)
    cut = keep < length
    assert (keep <= length).all()
    assert not cut.any() or right.all()
    assert len(set(keep[cut])) <= 1
    assert (length[cut] - keep[cut] >= (margin if margin >= 1 or margin == 0 else 16)).all()
    assert (keep[cut] >= int(length.mean())).all()


@pytest.mark.parametrize(("alpha", "smallest"), [(0, 2), (1, 3), (2, 6), (3, 11), (4, 18), (10, 102)])
def test_a_group_too_small_for_alpha_is_refused_with_the_smallest_that_works(alpha, smallest):
    dot = Dot(alpha=alpha)
    assert dot.smallest_group() == smallest
    dot.check(smallest)
    with pytest.raises(ConfigError, match=f"until a prompt has {smallest} answers or more"):
        dot.check(smallest - 1)


@pytest.mark.parametrize(("size", "reach"), [(8, "2.475"), (10, "2.846")])
def test_the_refusal_shows_the_arithmetic(size, reach):
    with pytest.raises(ConfigError, match=reach):
        Dot().check(size)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(0.1, 6), st.integers(2, 60))
def test_the_check_refuses_exactly_the_groups_in_which_no_single_outlier_can_be_cut(alpha, size):
    lengths = [10] * (size - 1) + [10**7]
    could_cut = Dot(alpha=alpha, margin=0).cuts([True] * size, lengths)[-1] < 10**7
    assert could_cut == (size >= Dot(alpha=alpha).smallest_group())


def test_masking_truncated_completions_is_refused():
    with pytest.raises(ConfigError, match="mask_truncated_completions"):
        Dot().check(32, mask_truncated_completions=True)


@pytest.mark.parametrize("options", [{"alpha": -1}, {"margin": -1}, {"success_threshold": 0}])
def test_settings_out_of_range_are_refused_by_name(options):
    with pytest.raises(ConfigError, match=f"truncation.{next(iter(options))}"):
        Dot(**options)


def test_a_cut_answer_ends_at_the_threshold_and_its_tail_stays_on_the_books():
    group = flat([100] * 15 + [1000])
    cut, leaves = Dot().apply(group, [True] * 16)
    cut.validate()
    assert leaves == [15]
    before, after = group.response_ids(group.leaves[15]), cut.response_ids(cut.leaves[15])
    np.testing.assert_array_equal(after, before[:831])
    kept = cut.segments[cut.leaves[15].segment]
    assert (kept.stop, cut.trained_length(cut.leaves[15])) == (Stop.OUTLIER_CUT, 831)
    np.testing.assert_array_equal(kept.logp, group.segments[16].logp[:831])
    assert cut.cost == group.cost and cut.cost.decoded == 2500
    tail = cut.segments[17]
    assert (tail.parent, tail.parent_off, len(tail), tail.stop) == (16, 831, 169, Stop.EOS)
    assert kept.cost == Cost(831, 3, 0, 831 * 3 + 831 * 830 // 2)


def test_an_untouched_group_is_returned_as_it_is():
    group = flat([100] * 16)
    assert Dot().apply(group, [True] * 16) == (group, [])
    assert NoTruncation().apply(group, [True] * 16) == (group, [])
    assert TRUNCATIONS["none"] is NoTruncation


def tree() -> Group:
    """prompt - trunk(20) - forced(2) - two branches of it (30, 400); a short answer; a copy of the trunk's middle."""
    parts = (
        segment(0, None, 0, Kind.PROMPT, PROMPT),
        segment(1, 0, PROMPT, Kind.SAMPLED, 20, Stop.BUDGET, first=100),
        segment(2, 1, 20, Kind.FORCED, 2, first=200),
        segment(3, 2, 2, Kind.SAMPLED, 30, Stop.EOS, first=300),
        segment(4, 1, 15, Kind.SAMPLED, 400, Stop.LENGTH, first=400),
        segment(5, 0, PROMPT, Kind.SAMPLED, 25, Stop.EOS, first=900),
    )
    copy = np.concatenate([parts[4].ids[5:60]])
    copied = Segment(6, 0, PROMPT, Kind.CONTEXT_COPY, copy, np.full(55, np.nan, np.float32), origin=(Origin(4, 5, 60),))
    last = segment(7, 6, 55, Kind.SAMPLED, 10, Stop.EOS, first=2000)
    # A leaf that ends at the outlier too, and one below its token 45.
    below = segment(8, 4, 45, Kind.SAMPLED, 7, Stop.EOS, first=3000)
    leaves = tuple(Leaf(i, s) for i, s in enumerate((3, 4, 5, 7, 8)))
    group = Group(1, "t", (*parts, copied, last, below), leaves, tuple(Rollout((i,)) for i in range(5)))
    group.validate()
    return group


def test_cutting_one_leaf_of_a_tree_leaves_the_text_of_all_others_alone():
    group = tree()
    lengths = [group.trained_length(leaf) for leaf in group.leaves]
    assert lengths == [50, 415, 25, 10, 67]
    dot = Dot(alpha=0.2, margin=1)
    keep = dot.cuts([True] * 5, lengths)
    assert keep.tolist() == [50, 147, 25, 10, 67]
    cut, leaves = dot.apply(group, [True] * 5)
    cut.validate()
    assert leaves == [1]
    assert cut.truncated(group.leaves[1]) is False and group.truncated(group.leaves[1]) is True
    for leaf in range(5):
        whole = group.response_ids(group.leaves[leaf])
        kept = whole[:147] if leaf == 1 else whole
        np.testing.assert_array_equal(cut.response_ids(cut.leaves[leaf]), kept)
    assert cut.cost == group.cost
    assert sum(map(len, cut.segments)) == sum(map(len, group.segments))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(0, 4), st.data())
def test_any_cut_of_any_leaf_keeps_the_invariants_and_every_token(leaf, data):
    group = tree()
    keep = data.draw(st.integers(0, group.trained_length(group.leaves[leaf]) - 1))
    cut = cut_leaf(group, leaf, keep)
    cut.validate()
    assert cut.trained_length(cut.leaves[leaf]) == keep
    for other in set(range(5)) - {leaf}:
        np.testing.assert_array_equal(cut.response_ids(cut.leaves[other]), group.response_ids(group.leaves[other]))
    assert sampled_tokens(cut) == sampled_tokens(group) and cut.cost == group.cost
    assert cut.segments[cut.leaves[leaf].segment].stop is Stop.OUTLIER_CUT


def sampled_tokens(group: Group) -> list[int]:
    return sorted(int(token) for part in group.segments if part.kind is Kind.SAMPLED for token in part.ids)


def test_rollouts_of_several_answers_are_refused():
    group = flat([10] * 4)
    with pytest.raises(DataError, match="truncation.name=none"):
        Dot().apply(group.replace(rollouts=(Rollout((0, 1, 2, 3)),)), [True])


def test_outcomes_that_do_not_match_the_lengths_are_refused():
    with pytest.raises(DataError, match="shapes"):
        Dot().cuts([True], [1, 2])


def test_answers_that_share_a_beginning_are_cut_inside_of_it_each_for_itself():
    # a trunk of 100 tokens with three branches, of which one is no outlier, and five short answers
    trunk = segment(1, 0, PROMPT, Kind.SAMPLED, 100, Stop.BUDGET, first=100)
    branches = [segment(2 + i, 1, kept, Kind.SAMPLED, n, Stop.EOS, first=1000 * (i + 1))
                for i, (kept, n) in enumerate([(100, 50), (100, 60), (30, 5)])]  # fmt: skip
    short = [segment(5 + i, 0, PROMPT, Kind.SAMPLED, 10, Stop.EOS, first=5000 + 100 * i) for i in range(5)]
    parts = (segment(0, None, 0, Kind.PROMPT, PROMPT), trunk, *branches, *short)
    leaves = tuple(Leaf(i, i + 2) for i in range(8))
    group = Group(0, "p", parts, leaves, tuple(Rollout((i,)) for i in range(8)))
    group.validate()
    cut, which = Dot(alpha=0.5, margin=1).apply(group, [True] * 8)
    cut.validate()
    keep = 82  # mean 49.375, deviation 65.8
    assert which == [0, 1] and [cut.trained_length(leaf) for leaf in cut.leaves] == [keep, keep, 35, *[10] * 5]
    for before, after in zip(group.leaves, cut.leaves, strict=True):
        np.testing.assert_array_equal(cut.response_ids(after), group.response_ids(before)[:keep])
    assert cut.cost == group.cost and sampled_tokens(cut) == sampled_tokens(group)
    rows = flatten([cut], DrGrpo()([0, 0, *[1] * 6], [0] * 8), normalizer="row_mean", max_completion=200)
    assert [int(row.trained.sum()) for row in rows] == [keep, keep, 35, *[10] * 5]
    assert [round(float(row.advantage[-1]), 2) for row in rows] == [-0.75] * 2 + [0.25] * 6


@pytest.mark.parametrize("driver", ["treepo", "eptree"])
def test_answers_of_trees_may_be_cut_and_their_number_counts(driver):
    change = ["truncation={name: dot, alpha: 3.0, margin: 8}"]
    check_settings(load_settings(f"configs/methods/{driver}.yaml", change), None)  # 16 answers
    few = {"treepo": "rollout.group_size=10", "eptree": "rollout.group_size=2"}[driver]
    with pytest.raises(ConfigError, match="can never cut anything.*until a prompt has 11 answers"):
        check_settings(load_settings(f"configs/methods/{driver}.yaml", [*change, few]), None)


@pytest.mark.parametrize("driver", ["delethink", "summary", "fork_join", "anytime", "budget_force"])
def test_answers_in_parts_or_of_a_set_length_are_refused(driver):
    with pytest.raises(ConfigError, match=f"rollout.driver {driver} .*flat, treepo or eptree"):
        check_settings(load_settings(f"configs/methods/{driver}.yaml", ["truncation={name: dot, alpha: 0.5}"]), None)


def test_a_run_on_trees_cuts_leaves_and_trains_what_is_left(make):
    """Every answer is right as a whole; what was cut is judged again, and is wrong."""
    seen = set()

    def judge(items):
        fresh = not seen
        seen.add(len(items))
        return [Judgement(Verdict.RIGHT if fresh else Verdict.WRONG) for _ in items]

    trainer = make(
        "treepo",
        "rollout.driver={name: treepo, segment_tokens: 4, depth: 3, width: 2, repetition: 'off', answer: eos}",
        "truncation={name: dot, alpha: 0.2, margin: 1}", "rollout.group_size=6",
        "save.rollouts_every=1", judge=judge,
    )  # fmt: skip
    collect, kept = trainer._collect, []
    trainer._collect = lambda: kept.append(collect()) or kept[-1]
    trainer.train()
    (experience,) = kept
    assert experience.cut_N.any() and experience.right_N[~experience.cut_N].all()
    assert not experience.right_N[experience.cut_N].any()
    assert (experience.advantage_N[experience.cut_N] < 0).all()
    stops = [g.segments[g.leaves[r.leaves[0]].segment].stop for g in experience.groups for r in g.rollouts]
    assert [stop is Stop.OUTLIER_CUT for stop in stops] == experience.cut_N.tolist()
    (line,) = read_metrics(trainer.run_dir / "metrics.jsonl")
    assert line["dot/cut"] == pytest.approx(experience.cut_N.mean()) and line["grad_norm"] > 0
