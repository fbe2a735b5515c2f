"""Tokens that a tree saves: worked numbers and brute force over random trees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from laconic.rollout.records import Group, Kind, Leaf, Origin, Rollout, Segment, Stop, prompt_group
from laconic.rollout.savings import (
    answer_leaves,
    answer_tokens,
    critical_tokens,
    decoded_tokens,
    flat_cost,
    level_saving,
    saving,
    used_tokens,
)


def grow(*nodes: tuple) -> Group:
    """Segments given as (parent, parent_off, kind, tokens[, origins]) below a prompt of two tokens."""
    group = prompt_group(0, "p", [7, 8])
    segments = list(group.segments)
    for parent, offset, kind, tokens, *origin in nodes:
        logp = np.full(tokens, -0.5 if kind is Kind.SAMPLED else np.nan, np.float32)
        ids = np.zeros(tokens, np.int32)
        origins = tuple(Origin(*one) for one in origin)
        segments.append(Segment(len(segments), parent, offset, kind, ids, logp, Stop.EOS, origins))
    return group.replace(segments=tuple(segments))


@pytest.mark.parametrize(
    ("widths", "saving"),
    [
        ((2, 4, 8), 0.41667),
        ((2, 4, 8, *[16] * 11), 0.15179),
        ((8, *[16] * 13), 0.03571),
    ],
)
def test_worked_savings_of_level_trees(widths: tuple[int, ...], saving: float) -> None:
    assert level_saving(widths) == pytest.approx(saving, abs=5e-6)


def test_a_tree_counts_shared_tokens_once_for_each_leaf_below() -> None:
    # 5 shared tokens, then branches of 3 and 4; the third answer splits off after 2 tokens of the shared ones.
    group = grow((0, 2, Kind.SAMPLED, 5), (1, 5, Kind.SAMPLED, 3), (1, 5, Kind.SAMPLED, 4), (1, 2, Kind.SAMPLED, 6))
    group = group.replace(leaves=(Leaf(0, 2), Leaf(1, 3), Leaf(2, 4)), rollouts=tuple(Rollout((i,)) for i in range(3)))
    group.validate()
    assert sum(answer_tokens(group)) == 8 + 9 + 8
    assert critical_tokens(group) == 9
    # One answer alone is one path, however it was sampled, and what its parent decoded after the split is not on it.
    assert [critical_tokens(group, rollout) for rollout in group.rollouts] == [8, 9, 8]
    assert [decoded_tokens(group, rollout) for rollout in group.rollouts] == [8, 9, 8]
    assert used_tokens(group, group.rollouts[2:]) == {0: 2, 1: 2, 4: 6}
    assert saving(18, 25) == pytest.approx(1 - 18 / 25)


def test_chunks_wait_for_what_they_carry_over() -> None:
    # Chunk two begins with the last 4 tokens of chunk one, chunk three with the last 4 of chunk two.
    group = grow(
        (0, 2, Kind.SAMPLED, 10),
        (0, 2, Kind.CONTEXT_COPY, 4, (1, 6, 10)),
        (2, 4, Kind.SAMPLED, 10),
        (0, 2, Kind.CONTEXT_COPY, 4, (3, 6, 10)),
        (4, 4, Kind.SAMPLED, 5),
    )
    assert critical_tokens(group) == 25


def test_threads_run_beside_each_other_and_the_join_waits_for_the_longest() -> None:
    group = grow(
        (0, 2, Kind.SAMPLED, 10),
        (1, 10, Kind.SAMPLED, 7),
        (1, 10, Kind.SAMPLED, 20),
        (1, 10, Kind.CONTEXT_COPY, 27, (2, 0, 7), (3, 0, 20)),
        (4, 27, Kind.SAMPLED, 3),
    )
    assert critical_tokens(group) == 10 + 20 + 3
    assert saving(critical_tokens(group), 40) == pytest.approx(1 - 33 / 40)


def test_a_flat_group_saves_nothing() -> None:
    group = grow((0, 2, Kind.SAMPLED, 5), (0, 2, Kind.SAMPLED, 7))
    group = group.replace(leaves=(Leaf(0, 1), Leaf(1, 2)), rollouts=(Rollout((0,)), Rollout((1,))))
    assert saving(12, sum(answer_tokens(group))) == 0 and critical_tokens(group) == 7
    assert saving(0, 0) == 0


def test_the_critical_path_of_a_rollout_is_not_that_of_the_answers_beside_it() -> None:
    # Two answers to one prompt: a plain one of 40 tokens, and one of 5 that forks into threads of 7 and 20 and joins.
    group = grow(
        (0, 2, Kind.SAMPLED, 40),
        (0, 2, Kind.SAMPLED, 5),
        (2, 5, Kind.SAMPLED, 7),
        (2, 5, Kind.SAMPLED, 20),
        (2, 5, Kind.CONTEXT_COPY, 27, (3, 0, 7), (4, 0, 20)),
        (5, 27, Kind.SAMPLED, 3),
    )
    leaves = tuple(Leaf(index, segment) for index, segment in enumerate((1, 3, 4, 6)))
    group = group.replace(leaves=leaves, rollouts=(Rollout((0,)), Rollout((1, 2, 3))))
    group.validate()
    assert [critical_tokens(group, rollout) for rollout in group.rollouts] == [40, 5 + 20 + 3]
    assert [decoded_tokens(group, rollout) for rollout in group.rollouts] == [40, 5 + 7 + 20 + 3]
    assert used_tokens(group, [Rollout((3,))]) == {0: 2, 2: 5, 3: 7, 4: 20, 5: 27, 6: 3}  # the threads by the join
    assert used_tokens(group) == {0: 2, 1: 40, 2: 5, 3: 7, 4: 20, 5: 27, 6: 3}
    assert critical_tokens(group) == 40


def test_parts_of_an_answer_are_no_trajectories_of_their_own() -> None:
    """Chunks with a carry, and threads, save no token; summaries of one thought do, though they share an advantage."""
    chunks = grow(
        (0, 2, Kind.SAMPLED, 10),
        (0, 2, Kind.CONTEXT_COPY, 4, (1, 6, 10)),
        (2, 4, Kind.SAMPLED, 10),
    )
    threads = grow(
        (0, 2, Kind.SAMPLED, 5),
        (1, 4, Kind.SAMPLED, 7),
        (1, 4, Kind.CONTEXT_COPY, 7, (2, 0, 7)),
        (3, 7, Kind.SAMPLED, 3),
    )
    summaries = grow((0, 2, Kind.SAMPLED, 10), (1, 5, Kind.SAMPLED, 3), (1, 10, Kind.SAMPLED, 4))

    def stopped(group: Group, *leaves: int) -> Group:
        segments = tuple(replace(s, stop=Stop.EOS if s.id == leaves[-1] else Stop.STOP_TOKEN) for s in group.segments)
        ends = tuple(Leaf(index, segment) for index, segment in enumerate(leaves))
        return group.replace(segments=segments, leaves=ends, rollouts=(Rollout(tuple(range(len(leaves)))),))

    chunks, threads, summaries = stopped(chunks, 1, 3), stopped(threads, 1, 2, 4), stopped(summaries, 2, 3)
    assert [answer_leaves(group, group.rollouts[0]) for group in (chunks, threads, summaries)] == [[1], [2], [0, 1]]
    # Nor is a thread that ends by itself.
    ended = tuple(replace(s, stop=Stop.EOS) if s.id == 2 else s for s in threads.segments)
    assert answer_leaves(threads.replace(segments=ended), threads.rollouts[0]) == [2]
    assert sum(answer_tokens(chunks)) == 10 + 10
    assert sum(answer_tokens(threads)) == 4 + 7 + 3
    assert sum(answer_tokens(summaries)) == 5 + 3 + 10 + 4
    assert critical_tokens(summaries, summaries.rollouts[0]) == 14


def test_kv_saving_counts_against_each_answer_as_one_sequence() -> None:
    """Two chunks of 10 tokens after a prompt of 2, the second with 4 carried over, against 20 tokens in a row."""
    chunks = grow((0, 2, Kind.SAMPLED, 10), (0, 2, Kind.CONTEXT_COPY, 4, (1, 6, 10)), (2, 4, Kind.SAMPLED, 10))
    chunks = chunks.replace(leaves=(Leaf(0, 3),), rollouts=(Rollout((0,)),))
    assert answer_tokens(chunks) == [20]
    assert flat_cost(chunks).kv_read == sum(2 + before for before in range(20))
    read = sum(2 + before for before in range(10)) + sum(2 + 4 + before for before in range(10))
    assert saving(read, flat_cost(chunks).kv_read) == pytest.approx(1 - 170 / 230)
