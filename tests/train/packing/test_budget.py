"""Packs within a budget: nothing lost, nothing counted twice, and as little repeated as can be."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

import numpy as np
import pytest
from random_groups import random_group, rows_of

from laconic.kernels.tree_layout import TreeLayout
from laconic.train.packed import PackedBatch
from laconic.train.packing.budget import concatenate, cut, to_tree_packs
from laconic.train.packing.trie import to_tries
from laconic.train.rows import Row, to_packs

WEIGHTS = ("w_pos", "w_neg", "w_kl", "w_ent", "w_nll")


def tries_of(seed: int, groups: int = 3) -> list[PackedBatch]:
    rng = random.Random(seed)
    return to_tries(rows_of([random_group(rng, number) for number in range(groups)], rng))


def by_path(packs: list[PackedBatch]) -> dict[tuple, np.ndarray]:
    """Summed weights of each token, named by its group and the tokens up to it, their log-probs included."""
    found: dict[tuple, np.ndarray] = {}
    for pack in packs:
        names: list[tuple] = []
        for token in range(len(pack)):
            own = (int(pack.ids[token]), str(pack.old_logp[token]), int(pack.policy_version[token]))
            above = names[pack.pred[token]] if pack.pred[token] >= 0 else (int(pack.group[token]),)
            names.append((*above, own))
            weights = np.array([getattr(pack, name)[token] for name in WEIGHTS])
            found[names[-1]] = found.get(names[-1], np.zeros(len(WEIGHTS))) + weights
    return found


@pytest.mark.parametrize("seed", range(60))
def test_packs_hold_every_token_with_its_weights_once_within_the_budget(seed):
    tries, budget = tries_of(seed), random.Random(seed).randint(1, 60)
    packs = to_tree_packs(tries, budget)
    for pack in packs:
        TreeLayout.of(pack.pos, pack.sub_end, pack.pred)
        alone = len(pack.trees) == 1 and len(pack) == pack.pos.max() + 1
        assert len(pack) <= budget or alone, "only a single path may be longer"
    wanted, found = by_path(tries), by_path(packs)
    assert wanted.keys() == found.keys()
    for name, weights in wanted.items():
        np.testing.assert_array_equal(found[name], weights)


def test_no_other_way_to_cut_between_leaves_repeats_less():
    cut_tries = 0
    for seed in range(40):
        for trie in tries_of(seed, groups=1):
            longest = int(trie.pos.max()) + 1
            for budget in (longest, longest + 7) if len(leaves_of(trie)) <= 9 else ():
                assert sum(map(len, cut(trie, budget))) == fewest_tokens(trie, budget), (seed, budget)
                cut_tries += len(trie) > budget
    assert cut_tries >= 20, cut_tries


def leaves_of(trie: PackedBatch) -> np.ndarray:
    return np.flatnonzero(trie.sub_end == np.arange(1, len(trie) + 1))


def fewest_tokens(trie: PackedBatch, budget: int) -> int:
    """Of the pieces of a trie, among all ways to cut it between leaves; ``budget``: at least its longest path."""
    leaf_L = leaves_of(trie)
    path_LN = (np.arange(len(trie)) <= leaf_L[:, None]) & (trie.sub_end > leaf_L[:, None])
    possible = []
    for count in range(len(leaf_L)):
        for cuts in combinations(range(1, len(leaf_L)), count):
            sizes = [int(path_LN[start:stop].any(0).sum()) for start, stop in pairwise([0, *cuts, len(leaf_L)])]
            if max(sizes) <= budget:
                possible.append(sum(sizes))
    return min(possible)


def test_a_trie_is_cut_at_its_highest_fork():
    # Two answers of 4 tokens to a prompt of 2, each in two ways after its third token.
    group = tries_of(0, groups=1)[0]
    arrays = dict(
        ids=np.arange(12), pos=np.array([0, 1, 2, 3, 4, 5, 5, 2, 3, 4, 5, 5]),
        sub_end=np.array([12, 12, 7, 7, 7, 6, 7, 12, 12, 12, 11, 12]),
        pred=np.array([-1, 0, 1, 2, 3, 4, 4, 1, 7, 8, 9, 9]), group=np.zeros(12, np.int64),
        policy_version=np.zeros(12, np.int64),
    )  # fmt: skip
    ones = {name: np.ones(12, np.float32) for name in (*WEIGHTS, "old_logp", "engine_logp", "ref_logp")}
    tree = type(group)(**arrays, **ones)
    first, second = cut(tree, 9)
    assert first.ids.tolist() == [0, 1, 2, 3, 4, 5, 6] and second.ids.tolist() == [0, 1, 7, 8, 9, 10, 11]
    assert first.w_kl.tolist() == [1] * 7 and second.w_kl.tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert second.pred.tolist() == [-1, 0, 1, 2, 3, 4, 4] and second.sub_end.tolist() == [7, 7, 7, 7, 7, 6, 7]
    pieces = cut(tree, 1)
    assert [piece.ids.tolist() for piece in pieces][1] == [0, 1, 2, 3, 4, 6], "a budget below one path: a path each"
    assert [piece.w_kl.sum() for piece in pieces] == [6, 1, 4, 1]
    assert cut(tree, 12) == [tree]


def test_several_groups_share_a_pack_and_the_largest_comes_first():
    tries = tries_of(5)
    packs = to_tree_packs(tries, 10_000)
    assert len(packs) == 1 and len(packs[0].trees) == sum(len(trie.trees) for trie in tries)
    sizes = [stop - start for start, stop in packs[0].trees]
    assert sizes == sorted(sizes, reverse=True)
    both = concatenate(tries)
    assert len(both) == len(packs[0]) and both.trees[0] == tries[0].trees[0]


def test_the_pack_that_needs_most_memory_comes_first():
    """Small trees fill up a pack after a larger one was begun."""
    logp = np.full(30, -1.0, np.float32)
    rows = [
        Row(np.arange(n) + 100 * (leaf > 0) * (np.arange(n) > 1), logp[:n], 1.0, np.zeros(n, np.int64), np.ones(n), g)
        for g, n in enumerate((30, 26, 26))
        for leaf in range(2)
    ]
    assert [len(trie) for trie in to_tries(rows)] == [58, 50, 50]
    assert [len(pack) for pack in to_tree_packs(to_tries(rows), 100)] == [100, 58]
    lone = [rows[0], rows[2], rows[4]]
    assert [len(pack) for pack in to_tree_packs(to_tries(lone), 52)] == [52, 30]
    assert [len(pack) for pack in to_packs(lone, 52)] == [52, 30]


def test_no_tries_give_no_packs():
    assert to_tree_packs([], 100) == []


def test_single_paths_share_a_pack_only_as_far_as_their_padding_fits():
    """A pack without a fork is scored as rows: a long answer and many short ones would be padded to the long one."""
    lengths = [40, *[2] * 20]
    rows = [
        Row(np.arange(n), np.full(n, -1.0, np.float32), 1.0, np.zeros(n, np.int64), np.ones(n), group)
        for group, n in enumerate(lengths)
    ]
    packs = to_tree_packs(to_tries(rows), 100)
    assert sum(len(pack.trees) for pack in packs) == len(lengths)
    assert all(len(pack.trees) * (pack.pos.max() + 1) <= 100 for pack in packs)
    # beside a fork nothing is padded
    forked = to_tries([*rows, Row(np.array([0, 9]), rows[1].old_logp, 1.0, rows[1].policy_version, np.ones(2), 1)])
    assert len(to_tree_packs(forked, 100)) == 1
