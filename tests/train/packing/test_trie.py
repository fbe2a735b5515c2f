"""The trie of a group: worked examples, and random groups against a dictionary of paths."""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
import pytest
from random_groups import random_group, rows_of

from laconic.kernels.tree_layout import TreeLayout
from laconic.rollout.records import Kind, Leaf, Rollout, Segment, Stop, prompt_group
from laconic.train.packed import PackedBatch
from laconic.train.packing.choose import work_of_rows, work_of_trees
from laconic.train.packing.trie import to_trie, to_tries
from laconic.train.rows import Row

NAN = np.nan


def row(ids, logp, *, weight=0.5, advantage=1.0, version=0, group=0, nll=0.0) -> Row:
    count = len(ids)
    return Row(
        np.array(ids),
        np.array(logp, np.float32),
        weight,
        np.full(count, version),
        np.full(count, advantage),
        group,
        nll,
    )


def path_of(trie: PackedBatch, token: int) -> list[int]:
    path = []
    while token >= 0:
        path.append(token)
        token = int(trie.pred[token])
    return path[::-1]


def test_worked_example_of_a_prompt_with_a_fork_below_an_answer():
    # P = [2 tokens], A(parent P, 2), B(parent A, 2), C(parent A, 1), D(parent P, 1)
    rows = [
        row([1, 2, 3, 4, 5, 6], [NAN, NAN, -1, -2, -3, -4]),
        row([1, 2, 3, 4, 7], [NAN, NAN, -1, -2, -5], advantage=-2.0),
        row([1, 2, 8], [NAN, NAN, -6], weight=0.25),
    ]
    trie = to_trie(rows)
    assert trie.ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert trie.pos.tolist() == [0, 1, 2, 3, 4, 5, 4, 2]
    assert trie.sub_end.tolist() == [8, 8, 7, 7, 6, 6, 7, 8]
    assert trie.pred.tolist() == [-1, 0, 1, 2, 3, 4, 3, 1]
    sees = [np.flatnonzero((np.arange(8) <= query) & (query < trie.sub_end)).tolist() for query in (6, 7)]
    assert sees == [[0, 1, 2, 3, 6], [0, 1, 7]]
    np.testing.assert_array_equal(trie.old_logp, np.array([NAN, NAN, -1, -2, -3, -4, -5, -6], np.float32))
    assert trie.w_pos.tolist() == [0, 0, 0.5, 0.5, 0.5, 0.5, 0, 0.25]
    assert trie.w_neg.tolist() == [0, 0, -1, -1, 0, 0, -1, 0]
    assert trie.w_kl.tolist() == [0, 0, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_worked_example_of_nested_nodes():
    # parent = [-1, 0, 1, 1, 0], len = [3, 2, 1, 2, 2]: leaves are nodes 2, 3 and 4
    nodes = [[10, 11, 12], [20, 21], [30], [40, 41], [50, 51]]
    paths = [[0, 1, 2], [0, 1, 3], [0, 4]]
    ids = [sum((nodes[number] for number in path), []) for path in paths]
    rows = [row(answer, [NAN] * 3 + [-1.0] * (len(answer) - 3)) for answer in ids]
    trie = to_trie(rows)
    assert trie.pos.tolist() == [0, 1, 2, 3, 4, 5, 5, 6, 3, 4]
    assert trie.sub_end.tolist() == [10, 10, 10, 8, 8, 6, 8, 8, 10, 10]
    assert trie.pred.tolist() == [-1, 0, 1, 2, 3, 4, 4, 6, 2, 8]
    assert work_of_trees([trie]).pairs == 43 and work_of_rows(np.array([6, 7, 5]), 0, 1).pairs == 64


def test_equal_answers_become_one_with_their_weights_added():
    same = [row([1, 2, 3], [NAN, -1, -2], advantage=value) for value in (1.0, -3.0, 0.0)]
    trie = to_trie(same)
    assert trie.ids.tolist() == [1, 2, 3] and trie.sub_end.tolist() == [3, 3, 3]
    assert trie.w_pos.tolist() == [0, 0.5, 0.5] and trie.w_neg.tolist() == [0, -1.5, -1.5]
    assert trie.w_kl.tolist() == [0, 1.5, 1.5]


@pytest.mark.parametrize("other", [dict(logp=-1.5), dict(version=7)])
def test_tokens_that_were_sampled_differently_stay_apart_with_all_that_follows(other):
    logp = [NAN, other.get("logp", -1), -2]
    trie = to_trie([row([1, 2, 3], [NAN, -1, -2]), row([1, 2, 3], logp, version=other.get("version", 0))])
    assert sorted(trie.ids.tolist()) == [1, 2, 2, 3, 3] and trie.pred.tolist() == [-1, 0, 1, 0, 3]


def test_a_row_that_does_not_train_a_token_goes_with_one_that_does():
    first, second = row([1, 2, 3], [NAN, -1, -2], version=4), row([1, 2, 3, 5], [NAN, NAN, NAN, -3], version=9)
    for rows in ([first, second], [second, first]):
        trie = to_trie(rows)
        assert trie.ids.tolist() == [1, 2, 3, 5] and trie.w_kl.tolist() == [0, 0.5, 0.5, 0.5]
        assert trie.policy_version.tolist()[1:] == [4, 4, 9]


def test_a_row_that_ends_within_another_adds_nothing_but_its_weights():
    trie = to_trie([row([1, 2, 3], [NAN, -1, -2]), row([1, 2], [NAN, -1])])
    assert trie.ids.tolist() == [1, 2, 3] and trie.w_kl.tolist() == [0, 1, 0.5]


def test_rows_of_a_group_that_begin_differently_are_trees_of_their_own():
    trie = to_trie([row([1, 2], [NAN, -1]), row([3, 4], [NAN, -1])])
    assert trie.trees == [(0, 2), (2, 4)] and trie.pred.tolist() == [-1, 0, -1, 2]


def test_groups_never_merge():
    tries = to_tries([row([1, 2], [NAN, -1], group=group) for group in (5, 3, 5)])
    assert [trie.group.tolist() for trie in tries] == [[5, 5], [3, 3]] and tries[0].w_kl.tolist() == [0, 1]
    assert to_tries([]) == []


@pytest.mark.parametrize("seed", range(200))
def test_a_random_trie_says_what_its_rows_say(seed):
    rng = random.Random(seed)
    group = random_group(rng, words=rng.choice([2, 32]))
    rows = rows_of([group], rng, by_token=seed % 3 == 0)
    if not rows:
        return
    trie = to_trie(rows)
    TreeLayout.of(trie.pos, trie.sub_end, trie.pred)  # refuses what is no tree in pre-order

    # Every path of the trie as ids; behaviour only counts where something is trained.
    found = defaultdict(lambda: np.zeros(4))
    names = [(tuple(trie.ids[path].tolist()), path) for path in (path_of(trie, t) for t in range(len(trie)))]
    for token, (ids, _) in enumerate(names):
        if trie.w_kl[token]:
            name = (ids, float(trie.old_logp[token]), int(trie.policy_version[token]))
            found[name] += [trie.w_pos[token], trie.w_neg[token], trie.w_kl[token], trie.w_nll[token]]
        else:
            assert np.isnan(trie.old_logp[token]) and not trie.scored[token]
    wanted = defaultdict(lambda: np.zeros(4))
    for one in rows:
        for place in np.flatnonzero(one.trained):
            name = (tuple(one.ids[: place + 1].tolist()), float(one.old_logp[place]), int(one.policy_version[place]))
            pull = one.weight * one.advantage[place]
            wanted[name] += [max(pull, 0), min(pull, 0), one.weight, one.nll]
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)

    # Nothing is there twice: siblings differ in what makes a token.
    for parent in range(-1, len(trie)):
        children = np.flatnonzero(trie.pred == parent)
        keys = [
            (int(trie.ids[c]), float(trie.old_logp[c]), int(trie.policy_version[c])) for c in children if trie.w_kl[c]
        ]
        assert len(set(keys)) == len(keys)
        untrained = [int(trie.ids[c]) for c in children if not trie.w_kl[c]]
        assert len(set(untrained)) == len(untrained)
    # Every row is a path.
    paths = {ids for ids, _ in names}
    assert all(tuple(one.ids.tolist()) in paths for one in rows)


def test_the_order_of_rows_changes_nothing():
    rng = random.Random(3)
    rows = rows_of([random_group(rng)], rng)
    one, other = to_trie(rows), to_trie(rng.sample(rows, len(rows)))
    for name in ("ids", "pos", "sub_end", "pred", "old_logp", "w_pos", "w_neg", "w_kl", "w_nll", "policy_version"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_group_without_rollouts_or_with_empty_answers_alone_leaves_the_others_as_they_are():
    rng = random.Random(7)
    group, other = random_group(rng, 1), prompt_group(0, "p0", [1, 2, 3])
    answers = [
        Segment(one, 0, 3, Kind.SAMPLED, np.zeros(0, np.int32), np.zeros(0, np.float32), Stop.EOS) for one in (1, 2)
    ]
    empty = other.replace(
        segments=(*other.segments, *answers),
        leaves=(Leaf(0, 1), Leaf(1, 2)),
        rollouts=(Rollout((0,)), Rollout((1,))),
    )
    empty.validate()
    alone = to_tries(rows_of([group], random.Random(1)))
    for neighbour in (other, empty):
        assert to_tries(rows_of([neighbour], random.Random(1))) == []
        beside = to_tries(rows_of([group, neighbour], random.Random(1)))
        assert [trie.ids.tolist() for trie in beside] == [trie.ids.tolist() for trie in alone]
