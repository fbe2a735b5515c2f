"""Who sees whom in a packed sequence, and the tables that say it to kernels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import binary, one_level, random_layout, random_nodes, walked_mask

from laconic.errors import DataError
from laconic.kernels.tree_layout import TreeLayout

PARENT, LENGTH = [-1, 0, 1, 1, 0], [3, 2, 1, 2, 2]


def test_the_worked_example_of_five_nodes():
    layout = TreeLayout.of_nodes(PARENT, LENGTH)
    assert layout.pos.tolist() == [0, 1, 2, 3, 4, 5, 5, 6, 3, 4]
    assert layout.sub_end.tolist() == [10, 10, 10, 8, 8, 6, 8, 8, 10, 10]
    assert layout.pred.tolist() == [-1, 0, 1, 2, 3, 4, 4, 6, 2, 8]
    assert layout.mask().sum(1).tolist() == [1, 2, 3, 4, 5, 6, 6, 7, 4, 5]
    assert layout.pairs == 43
    nodes = layout.nodes
    assert nodes.start.tolist() == [0, 3, 5, 6, 8] and nodes.stop.tolist() == [3, 5, 6, 8, 10]
    assert nodes.parent.tolist() == PARENT and nodes.level.tolist() == [0, 1, 2, 2, 1]
    assert nodes.end.tolist() == [10, 8, 6, 8, 10] and nodes.depth_tok.tolist() == [0, 3, 5, 5, 3]
    assert nodes.path(3) == [0, 1, 3]


def test_the_worked_example_of_a_prompt_and_four_segments():
    layout = TreeLayout.of_nodes([-1, 0, 1, 1, 0], [2, 2, 2, 1, 1])
    assert layout.pos.tolist() == [0, 1, 2, 3, 4, 5, 4, 2]
    assert layout.sub_end.tolist() == [8, 8, 7, 7, 6, 6, 7, 8]
    assert layout.pred.tolist() == [-1, 0, 1, 2, 3, 4, 3, 1]
    assert np.flatnonzero(layout.mask()[6]).tolist() == [0, 1, 2, 3, 6]
    assert np.flatnonzero(layout.mask()[7]).tolist() == [0, 1, 7]


@pytest.mark.parametrize("seed", range(60))
def test_a_token_sees_its_path_and_nothing_else(seed):
    layout = random_layout(seed, nodes=1 + seed % 12)
    np.testing.assert_array_equal(layout.mask(), walked_mask(layout))
    np.testing.assert_array_equal(layout.depth + 1, layout.mask().sum(1))
    np.testing.assert_array_equal(layout.pos, layout.depth)
    assert layout.pairs == layout.mask().sum()


@pytest.mark.parametrize("seed", range(20))
def test_empty_nodes_change_nothing_but_who_the_parent_is(seed):
    layout = TreeLayout.of_nodes(*random_nodes(seed, nodes=12, longest=2, empty=True))
    np.testing.assert_array_equal(layout.mask(), walked_mask(layout))


def test_nodes_are_the_longest_runs_without_a_branch():
    layout = TreeLayout.of_nodes([-1, 0, 1, 1, -1], [2, 3, 1, 1, 4])  # a chain of two is one run
    assert layout.nodes.start.tolist() == [0, 5, 6, 7] and layout.nodes.parent.tolist() == [-1, 0, 0, -1]
    assert len(TreeLayout.of_rows([4, 1, 3]).nodes) == 3
    assert len(TreeLayout.of_rows([]).nodes) == len(TreeLayout.of_rows([])) == 0


@pytest.mark.parametrize(
    ("pos", "sub_end", "pred"),
    [
        ([0, 1, 2], [3, 3], [-1, 0, 1]),
        ([0, 1, 2], [3, 3, 3], [-1, 0, 0]),  # two children of token 0, but 1's subtree goes on
        ([0, 1, 2], [3, 2, 3], [-1, 0, 1]),  # the other way round
        ([0, 1, 2], [2, 3, 3], [-1, 0, 1]),  # a subtree longer than its parent's
        ([0, 1, 2], [3, 3, 4], [-1, 0, 1]),
        ([0, 1, 2], [3, 3, 2], [-1, 0, 1]),
        ([0, 1, 2], [3, 3, 3], [-1, 0, 2]),
        ([0, 1, 0], [3, 2, 3], [-1, 0, -1]),  # the second tree begins inside the first
        ([0, 1, 1, 2], [4, 2, 3, 4], [-1, 0, 0, 1]),  # not in pre-order
    ],
)
def test_what_is_no_tree_is_refused_with_the_token(pos, sub_end, pred):
    with pytest.raises(DataError, match="depth-first|one number per token"):
        TreeLayout.of(pos, sub_end, pred)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), nodes=st.integers(1, 14), limit=st.integers(1, 40))
def test_units_cover_the_sequence_and_see_their_path_and_themselves(seed, nodes, limit):
    layout = random_layout(seed, nodes)
    units, mask = layout.units(limit), layout.mask()
    assert [unit.start for unit in units[1:]] == [unit.stop for unit in units[:-1]]
    assert (units[0].start, units[-1].stop) == (0, len(layout))
    for unit in units:
        size = unit.stop - unit.start
        within = mask[unit.start : unit.stop, unit.start : unit.stop]
        assert size <= limit or (size <= 2 * limit and within.sum() == size * (size + 1) // 2)
        above = mask[unit.start : unit.stop, : unit.start]
        assert (above == above[0]).all() and above[0].sum() == unit.depth == layout.depth[unit.start]
        np.testing.assert_array_equal(layout.unit_masks(limit)[unit.block] == 0, within)


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 10**6), nodes=st.integers(1, 14), block_q=st.sampled_from([1, 3, 4, 8, 16]),
    block_k=st.sampled_from([1, 4, 5, 8, 32]),
)  # fmt: skip
def test_tiles_hold_what_the_mask_holds(seed, nodes, block_q, block_k):
    layout = random_layout(seed, nodes)
    tiles, mask = layout.tiles(block_q, block_k), layout.mask()
    for query in range(-(-len(layout) // block_q)):
        rows = mask[query * block_q : (query + 1) * block_q]
        live, full = [], []
        for key in range(-(-len(layout) // block_k)):
            part = rows[:, key * block_k : (key + 1) * block_k]
            live += [key] * bool(part.any())
            full += [key] * bool(part.all() and part.shape[1] == block_k)
            first, full_first, full_last, last = tiles.ranges[key].tolist()
            assert (first <= query < last) == part.any() and (full_first <= query < full_last) == (key in full)
        start, middle, stop = tiles.start[query], tiles.full[query], tiles.stop[query]
        assert tiles.key_tile[start:middle].tolist() == full
        assert sorted(tiles.key_tile[start:stop].tolist()) == live
    lengths = (tiles.stop - tiles.start)[tiles.heavy_first]
    assert (np.diff(lengths) <= 0).all() and sorted(tiles.heavy_first) == list(range(len(lengths)))
    assert layout.tiles(block_q, block_k) is tiles


@pytest.mark.parametrize(("response", "full", "partial"), [(1024, 1500, 136), (8192, 40476, 1032)])
def test_tile_counts_of_one_group_of_sixteen(response, full, partial):
    tiles = one_level(1024, [response] * 16).tiles(128, 128)
    assert (tiles.full - tiles.start).sum() == full and (tiles.stop - tiles.full).sum() == partial
    assert len(tiles.start) ** 2 == {1024: 18_496, 8192: 1_065_024}[response]


@pytest.mark.parametrize(
    ("response", "tokens", "pairs"), [(512, 0.375, 0.583), (1024, 0.531, 0.766), (8192, 0.896, 0.988)]
)
def test_what_packing_a_group_of_sixteen_saves(response, tokens, pairs):
    packed, rows = one_level(1024, [response] * 16), TreeLayout.of_rows([1024 + response] * 16)
    assert len(packed) / len(rows) == pytest.approx(tokens, abs=5e-4)
    assert packed.pairs / rows.pairs == pytest.approx(pairs, abs=5e-4)


@pytest.mark.parametrize("wanted", [1, 3, 50, 1000])
@pytest.mark.parametrize("make", [lambda: binary(40, 4), lambda: one_level(300, [70] * 30), lambda: random_layout(3)])
def test_the_work_on_keys_is_cut_into_parts_that_add_up(make, wanted):
    tiles = make().tiles(1, 8)
    work = tiles.work(wanted)
    slots = {}
    for tile, (first, full_first, full_last, last) in enumerate(tiles.ranges.tolist()):
        parts = sorted(item.tolist() for item in work.items if item[0] == tile)
        assert [part[1] for part in parts] == [first, *(part[4] for part in parts[:-1])] and parts[-1][4] == last
        for _, begin, full_begin, full_end, end, slot in parts:
            assert set(range(full_begin, full_end)) == set(range(full_first, full_last)) & set(range(begin, end))
            assert begin <= full_begin <= full_end <= end
            assert (slot >= 0) == (len(parts) > 1)
        if len(parts) > 1:
            slots[tile] = [part[5] for part in parts]
    assert {tile: list(range(first, last)) for tile, first, last in work.sums.tolist()} == slots
    assert sorted(slot for several in slots.values() for slot in several) == list(range(work.slots))
    longest = int((work.items[:, 4] - work.items[:, 1]).max())
    total = int((tiles.ranges[:, 3] - tiles.ranges[:, 0]).sum())
    assert longest <= max(32, -(-total // wanted))


def test_the_picture_of_the_mask_in_the_readme(repo_root):
    layout = TreeLayout.of_nodes(PARENT, LENGTH)
    node_N = np.repeat(np.arange(len(LENGTH)), LENGTH)
    picture = "\n".join(
        f"node {node} | {' '.join('#' if seen else '.' for seen in row)} | {pos:2} {end:2}"
        for node, row, pos, end in zip(node_N, layout.mask(), layout.pos, layout.sub_end, strict=True)
    )
    assert picture in (repo_root / "kernels/tree_attn/README.md").read_text(), picture
