"""The tree that a person sees: worked shapes, and every token in it once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import RandomTree, random_script
from trees import prompt_group as grown_from

from laconic.rollout.branches import Branch, branches, stretches
from laconic.rollout.engines.fake import ScriptedEngine
from laconic.rollout.records import Group, Kind, Leaf, Rollout, Segment, Stop, prompt_group
from laconic.rollout.scheduler import run_groups


def grow(*nodes: tuple[int, int, int]) -> Group:
    """Sampled segments given as (parent, parent_off, tokens) below a prompt of two tokens."""
    group = prompt_group(0, "p", [7, 8])
    segments = list(group.segments)
    for parent, offset, tokens in nodes:
        logp = -np.arange(1, tokens + 1).astype(np.float32)
        segments.append(
            Segment(len(segments), parent, offset, Kind.SAMPLED, np.zeros(tokens, np.int32), logp, Stop.EOS)
        )
    return group.replace(segments=tuple(segments))


def drawn(branch: Branch) -> list:
    """Stretches as (segment, start, stop), then the branches below."""
    own = [(piece.segment.id, piece.start, piece.stop) for piece in branch.stretches]
    return [*own, *(drawn(below) for below in branch.below)]


@pytest.mark.parametrize(
    ("nodes", "tree"),
    [
        ([], [(0, 0, 2)]),
        ([(0, 2, 5)], [(0, 0, 2), (1, 0, 5)]),
        ([(0, 2, 5), (0, 2, 3)], [(0, 0, 2), [(1, 0, 5)], [(2, 0, 3)]]),
        # A late split cuts its parent; two at one place cut it once.
        ([(0, 2, 5), (1, 3, 2), (1, 3, 4)], [(0, 0, 2), (1, 0, 3), [(1, 3, 5)], [(2, 0, 2)], [(3, 0, 4)]]),
        # One that keeps nothing of its parent stands beside it.
        ([(0, 2, 5), (1, 0, 2)], [(0, 0, 2), [(1, 0, 5)], [(2, 0, 2)]]),
        ([(0, 2, 5), (1, 0, 2), (2, 0, 1)], [(0, 0, 2), [(1, 0, 5)], [(2, 0, 2)], [(3, 0, 1)]]),
        # A chain is no branch, nor is what follows an empty segment.
        ([(0, 2, 5), (1, 5, 0), (2, 0, 4)], [(0, 0, 2), (1, 0, 5), (2, 0, 0), (3, 0, 4)]),
    ],
)
def test_worked_trees(nodes: list[tuple[int, int, int]], tree: list) -> None:
    assert drawn(branches(grow(*nodes))) == tree


def test_branches_at_a_place_follow_the_order_of_the_rollouts() -> None:
    group = grow((0, 2, 1), (0, 2, 1), (0, 2, 1))
    leaves = (Leaf(0, 3), Leaf(1, 1))
    group = group.replace(leaves=leaves, rollouts=(Rollout((0,)), Rollout((1,))))
    # The one without a rollout comes last.
    assert drawn(branches(group)) == [(0, 0, 2), [(3, 0, 1)], [(1, 0, 1)], [(2, 0, 1)]]


def test_the_surprise_of_a_stretch_is_that_of_its_first_token() -> None:
    group = grow((0, 2, 5), (1, 3, 2))
    assert [[piece.surprisal for piece in pieces] for pieces in stretches(group)] == [[None], [1.0, 4.0], [1.0]]


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_every_token_of_a_random_tree_is_drawn_once_and_below_what_it_continues(seed: int) -> None:
    (group,) = run_groups(
        RandomTree(seed), ScriptedEngine(random_script(seed)), [grown_from(0, [5, 6, 7])], seed=seed, step=0
    )
    seen: set[tuple[int, int]] = set()

    def walk(branch: Branch, before: int) -> None:
        for piece in branch.stretches:
            assert (piece.segment.id, piece.index) not in seen
            seen.add((piece.segment.id, piece.index))
            # What stands above it in the tree is as long as what its path holds before it.
            kept = len(group.context_ids(piece.segment.id)) - len(piece.segment)
            assert before == kept + piece.start
            before += piece.stop - piece.start
        assert len(branch.below) != 1
        for below in branch.below:
            walk(below, before)

    walk(branches(group), 0)
    assert seen == {(piece.segment.id, piece.index) for pieces in stretches(group) for piece in pieces}
