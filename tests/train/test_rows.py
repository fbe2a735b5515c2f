"""Rows and packs: what is trained, what it weighs, and that packing loses nothing."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import DataError
from laconic.rollout.records import Group, Kind, Leaf, Origin, Rollout, Segment, Stop, prompt_group
from laconic.train.rows import Totals, flatten, to_packs, totals_of

NORMALIZERS = ("row_mean", "token_mean", "constant")


def answers(lengths, rollouts=None) -> Group:
    """A prompt of two tokens and sampled answers."""
    group = prompt_group(3, "p", [7, 8])
    sampled = [
        Segment(i + 1, 0, 2, Kind.SAMPLED, np.arange(n, dtype=np.int32), np.full(n, -0.5, np.float32), Stop.EOS)
        for i, n in enumerate(lengths)
    ]
    leaves = tuple(Leaf(i, i + 1) for i in range(len(lengths)))
    rollouts = rollouts or [(i,) for i in range(len(lengths))]
    return group.replace(
        segments=(*group.segments, *sampled), leaves=leaves, rollouts=tuple(Rollout(tuple(r)) for r in rollouts)
    )


@pytest.mark.parametrize(
    ("normalizer", "weights"),
    [
        ("row_mean", [1 / (3 * 4), 1 / (3 * 2), 1 / (3 * 6)]),
        ("token_mean", [1 / 12] * 3),
        ("constant", [1 / (3 * 100)] * 3),
    ],
)
def test_worked_row_weights(normalizer, weights):
    rows = flatten([answers([4, 2, 6])], [1.0, -2.0, 3.0], normalizer=normalizer, max_completion=100)
    np.testing.assert_allclose([row.weight for row in rows], weights, rtol=1e-12)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_rows_without_advantage_are_left_out_but_counted(normalizer):
    group = answers([4, 2, 6])
    options = dict(normalizer=normalizer, max_completion=100)
    kept = flatten([group], [1.0, 0.0, 3.0], **options)
    everything = flatten([group], [1.0, 0.0, 3.0], keep_all=True, **options)
    assert [len(row) for row in kept] == [6, 8] and [len(row) for row in everything] == [6, 4, 8]
    assert [row.weight for row in kept] == [everything[0].weight, everything[2].weight]


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_ranks_that_share_their_totals_give_the_weights_of_one_rank(normalizer):
    groups = [answers([4, 2, 6]), answers([5, 1])]
    options = dict(normalizer=normalizer, max_completion=100)
    together = flatten(groups, [1.0] * 5, **options)
    totals = totals_of(groups[:1]) + totals_of(groups[1:])
    assert totals == Totals(5, 18)
    apart = flatten(groups[:1], [1.0] * 3, totals=totals, **options) + flatten(
        groups[1:], [1.0] * 2, totals=totals, **options
    )
    assert [row.weight for row in apart] == [row.weight for row in together]


def test_a_rollout_of_several_rows_weighs_as_much_as_one_of_a_single_row():
    # Trace A: 6 tokens in rows of 4 and 2, advantage 1; trace B: 2 tokens, advantage -1. The naive mean over rows of
    # token means would give a loss of -1/3.
    group = answers([4, 2, 2], rollouts=[(0, 1), (2,)])
    rows = flatten([group], [1.0, -1.0], normalizer="row_mean", max_completion=100)
    losses = [-row.weight * row.advantage[0] * row.trained.sum() for row in rows]
    np.testing.assert_allclose([losses[0] + losses[1], losses[2]], [-0.5, 0.5], rtol=1e-12)


def test_worked_terms_of_a_trace_of_three_chunks_beside_one_of_a_single_chunk():
    # Each token weighs 1 / (2 L), with L = 8 and 2: as a mean over four rows, terms of 1, .5, .5 and 2.
    rows = flatten([answers([4, 2, 2, 2], rollouts=[(0, 1, 2), (3,)])], [1, 1], normalizer="row_mean", max_completion=9)
    terms = [row.weight * row.trained.sum() for row in rows]
    np.testing.assert_allclose(np.multiply(terms, len(rows)), [1, 0.5, 0.5, 2], rtol=1e-12)
    assert sum(terms) == pytest.approx(1)


def test_a_rollout_of_chunks_trains_each_token_once_with_its_own_length():
    # The second leaf's path holds the first two tokens of the first one again, and continues them.
    group = answers([4])
    more = Segment(2, 1, 2, Kind.SAMPLED, np.array([50, 51], np.int32), np.full(2, -0.25, np.float32), Stop.EOS)
    group = group.replace(
        segments=(*group.segments, more), leaves=(Leaf(0, 1), Leaf(1, 2), Leaf(2, 2)), rollouts=(Rollout((0, 1, 2)),)
    )
    first, second = flatten([group], [1.0], normalizer="row_mean", max_completion=100)
    assert first.trained.tolist() == [False] * 2 + [True] * 4
    assert second.trained.tolist() == [False] * 4 + [True] * 2
    assert first.weight == second.weight == 1 / 6


def test_only_sampled_tokens_are_trained():
    group = answers([4])
    forced = Segment(2, 1, 3, Kind.FORCED, np.array([40, 41], np.int32), np.full(2, np.nan, np.float32))
    last = Segment(3, 2, 2, Kind.SAMPLED, np.array([50], np.int32), np.array([-0.25], np.float32), Stop.EOS)
    group = group.replace(segments=(*group.segments, forced, last), leaves=(Leaf(0, 3),))
    group.validate()
    (row,) = flatten([group], [-2.0], normalizer="row_mean", max_completion=100)
    # Token 3 of the first answer is cut off by the late split.
    assert row.ids.tolist() == [7, 8, 0, 1, 2, 40, 41, 50]
    trained = [False] * 2 + [True] * 3 + [False] * 2 + [True]
    assert row.trained.tolist() == trained
    (pack,) = to_packs([row], 100)
    assert pack.scored.tolist() == trained
    np.testing.assert_allclose(pack.w_neg[trained], -2 / 4)
    for weights in (pack.w_pos, pack.w_nll, *(w[~row.trained] for w in (pack.w_neg, pack.w_kl, pack.w_ent))):
        np.testing.assert_array_equal(weights, 0)
    np.testing.assert_array_equal(np.isfinite(pack.old_logp), trained)
    np.testing.assert_allclose(pack.old_logp[trained], [-0.5, -0.5, -0.5, -0.25])


@st.composite
def updates(draw):
    sizes = st.lists(st.integers(0, 30), min_size=1, max_size=6)
    groups = [replace(answers(lengths), id=index) for index, lengths in enumerate(draw(st.lists(sizes, max_size=5)))]
    count = sum(len(group.rollouts) for group in groups)
    advantage = draw(st.lists(st.sampled_from([-1.5, 0.0, 0.25, 2.0]), min_size=count, max_size=count))
    return groups, advantage, draw(st.sampled_from(NORMALIZERS)), draw(st.booleans()), draw(st.integers(1, 200))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(updates())
def test_packs_hold_every_row_once_within_the_budget(case):
    groups, advantage, normalizer, keep_all, budget = case
    rows = flatten(groups, advantage, normalizer=normalizer, max_completion=64, keep_all=keep_all)
    packs = to_packs(rows, budget)
    assert sum(len(pack.trees) for pack in packs) == len(rows)
    for pack in packs:
        lengths = [stop - start for start, stop in pack.trees]
        assert len(lengths) == 1 or len(lengths) * max(lengths) <= budget
        for start, stop in pack.trees:
            assert pack.pos[start:stop].tolist() == list(range(stop - start))
            assert pack.pred[start:stop].tolist() == [-1, *range(start, stop - 1)]
            assert set(pack.sub_end[start:stop]) == {stop}
    total = sum(float(np.sum(pack.w_pos, dtype=np.float64) + np.sum(pack.w_neg, dtype=np.float64)) for pack in packs)
    assert total == pytest.approx(sum(r.weight * r.advantage[0] * r.trained.sum() for r in rows), abs=1e-5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(updates())
def test_weights_of_a_whole_update_sum_to_what_the_normalizer_promises(case):
    groups, advantage, normalizer, _, _ = case
    rows = flatten(groups, advantage, normalizer=normalizer, max_completion=64, keep_all=True)
    trained = sum(row.weight * row.trained.sum() for row in rows)
    totals = totals_of(groups)
    if not totals.tokens:
        assert not rows
    elif normalizer == "row_mean":
        # Empty answers keep their place in the mean.
        assert trained == pytest.approx(len(rows) / totals.rollouts)
    elif normalizer == "token_mean":
        assert trained == pytest.approx(1.0)
    else:
        assert trained == pytest.approx(totals.tokens / (totals.rollouts * 64))


def random_group(rng: random.Random) -> Group:
    """Late splits down to length zero, empty answers, inserted and copied tokens, rollouts of any leaves.

    A sampled token's id says which it is: 100 times its segment plus its place. Inserted ones have ids below 100.
    """
    segments = list(prompt_group(0, "p", [1, 2]).segments)
    for index in range(1, rng.randint(2, 12)):
        parent = rng.choice(segments)
        kept = rng.choice([0, rng.randint(0, len(parent)), len(parent)]) if parent.id else 2
        kind = rng.choice([Kind.SAMPLED] * 4 + [Kind.FORCED, Kind.PROBE, Kind.CONTEXT_COPY])
        ids, origin = 100 * index + np.arange(rng.randint(0, 4)), ()
        if kind is Kind.CONTEXT_COPY:
            source = rng.choice(segments)
            start = rng.randint(0, len(source))
            origin, ids = (Origin(source.id, start, len(source)),), source.ids[start:]
        elif kind is not Kind.SAMPLED:
            ids = ids % 100
        sampled = kind is Kind.SAMPLED
        logp = -(ids % 997) / 997 - 0.1 if sampled else np.full(len(ids), np.nan)
        one = Segment(index, parent.id, kept, kind, ids.astype(np.int32), logp.astype(np.float32), Stop.EOS, origin)
        version_T = np.sort([rng.randint(1, 3) for _ in range(len(one))])
        segments.append(one.with_versions(version_T) if sampled else one)
    leaves = tuple(Leaf(i, rng.randint(1, len(segments) - 1)) for i in range(rng.randint(1, 6)))
    order = rng.sample(range(len(leaves)), len(leaves))
    cuts = sorted({0, len(order), *(rng.randint(0, len(order)) for _ in range(3))})
    rollouts = tuple(Rollout(tuple(order[start:stop])) for start, stop in pairwise(cuts))
    group = Group(0, "p", tuple(segments), leaves, rollouts)
    group.validate()
    return group


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, 10**9))
def test_rows_train_what_the_calls_sampled_each_token_once_in_the_context_it_was_sampled_in(seed):
    """Brute force over calls: all that a rollout stands on, token by token, and never a token that was cut off."""
    group = random_group(random.Random(seed))
    advantage = [1.0 + number for number in range(len(group.rollouts))]
    rows = flatten([group], advantage, normalizer="row_mean", max_completion=9, keep_all=True)
    found = []
    for row in rows:
        assert all(id >= 100 for id in row.ids[row.trained])
        for place in np.flatnonzero(row.trained):
            context = tuple(row.ids[:place].tolist())
            token = (int(row.ids[place]), float(row.old_logp[place]), int(row.policy_version[place]))
            found.append((row.advantage[0], row.weight, context, *token))
    wanted = []
    for number, rollout in enumerate(group.rollouts):
        used: set[tuple[int, int]] = set()
        for leaf in rollout.leaves:
            segment, kept = group.leaves[leaf].segment, len(group.segments[group.leaves[leaf].segment])
            while segment:
                if group.segments[segment].kind is Kind.SAMPLED:
                    used |= {(segment, offset) for offset in range(kept)}
                segment, kept = group.segments[segment].parent, group.segments[segment].parent_off
        for segment, offset in used:
            call = group.segments[segment]
            before = group.context_ids(segment)[: len(group.context_ids(segment)) - len(call) + offset]
            token = (100 * segment + offset, float(call.logp[offset]), int(call.version_T[offset]))
            wanted.append((advantage[number], 1 / (len(group.rollouts) * len(used)), tuple(before.tolist()), *token))
    assert sorted(found) == sorted(wanted)


def test_random_groups_have_cuts_at_length_zero_and_rollouts_of_several_rows():
    groups = [random_group(random.Random(seed)) for seed in range(200)]
    zero = [s for group in groups for s in group.segments[1:] if s.parent and not s.parent_off]
    assert len(zero) > 50 and sum(len(r.leaves) > 1 for group in groups for r in group.rollouts) > 50


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 10**9), st.sampled_from(NORMALIZERS), st.booleans())
def test_tokens_that_share_an_advantage_are_trained_bit_for_bit_as_their_rollout_would_be(seed, normalizer, keep_all):
    rng = random.Random(seed)
    group = random_group(rng)
    advantage = [rng.choice([0.0, -1.5, 0.1, 1 / 3, rng.gauss(0, 1)]) for _ in group.rollouts]
    tokens = [
        {segment: np.full(len(group.segments[segment]), value) for segment in group.trained(rollout)}
        for rollout, value in zip(group.rollouts, advantage, strict=True)
    ]
    options = dict(normalizer=normalizer, max_completion=9, keep_all=keep_all)
    packs = [to_packs(flatten([group], advantage, **options, **more), 40) for more in ({}, {"token_advantage": tokens})]
    assert len(packs[0]) == len(packs[1])
    for scalar, by_token in zip(*packs, strict=True):
        for field in (f.name for f in fields(scalar) if getattr(scalar, f.name) is not None):
            np.testing.assert_array_equal(getattr(scalar, field), getattr(by_token, field), strict=True)


def test_each_token_gets_its_own_advantage_and_a_row_without_any_is_left_out():
    group = answers([3, 2, 4])
    tokens = [{1: np.array([1.0, 0.0, -2.0])}, {2: np.zeros(2)}, {3: np.array([0, 0, 0, 0.5])}]
    rows = flatten([group], [-1 / 3, 0, 0.125], normalizer="token_mean", max_completion=9, token_advantage=tokens)
    assert [row.advantage.tolist() for row in rows] == [[0, 0, 1, 0, -2], [0, 0, 0, 0, 0, 0.5]]
    (pack,) = to_packs(rows, 100)
    np.testing.assert_allclose(pack.w_pos, np.array([0, 0, 0, 0, 0, 0.5, 0, 0, 1, 0, 0]) / 9)
    np.testing.assert_allclose(pack.w_neg, np.array([0] * 10 + [-2]) / 9)
    assert (pack.w_kl > 0).sum() == 7, "the other terms act on every trained token of a row that is kept"


@pytest.mark.parametrize("tokens", [{}, {1: np.zeros(2)}, {1: np.array([0, np.nan, 0])}])
def test_advantages_of_tokens_that_do_not_fit_the_segments_are_refused(tokens):
    with pytest.raises(DataError, match="the advantages of segment 1 are not 3 finite numbers"):
        flatten([answers([3])], [1.0], normalizer="row_mean", max_completion=9, token_advantage=[tokens])


def test_a_rollout_that_is_imitated_is_kept_without_an_advantage():
    (row,) = flatten([answers([3, 2])], [0.0, 0.0], normalizer="row_mean", max_completion=9, nll_N=[0.25, 0])
    (pack,) = to_packs([row], 100)
    assert pack.w_nll.tolist() == [0, 0, 0.25, 0.25, 0.25] and not pack.w_pos.any() and pack.scored.sum() == 3


@pytest.mark.parametrize("advantage", [[1.0], [1.0, np.nan], [[1.0, 2.0]]])
def test_advantages_that_do_not_fit_the_rollouts_are_refused(advantage):
    with pytest.raises(DataError, match="one finite number per rollout"):
        flatten([answers([3, 4])], advantage, normalizer="row_mean", max_completion=9)


def test_an_empty_prompt_is_refused():
    group = answers([3])
    prompt = replace(group.segments[0], ids=np.empty(0, np.int32), logp=np.empty(0, np.float32))
    group = group.replace(segments=(prompt, replace(group.segments[1], parent_off=0)))
    with pytest.raises(DataError, match="empty prompt"):
        flatten([group], [1.0], normalizer="row_mean", max_completion=9)


def test_no_rows_give_no_packs():
    assert to_packs([], 100) == []
