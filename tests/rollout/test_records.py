"""The invariants of rollouts: random trees keep them, and a record that breaks one is rejected."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import RandomTree, prompt_group, random_script

from laconic.rollout.engines.fake import ScriptedEngine
from laconic.rollout.records import Kind, Leaf, Origin, Rollout, Segment
from laconic.rollout.scheduler import run_groups


class Listening(ScriptedEngine):
    """Remembers what was sent."""

    def submit(self, requests):
        self.sent = [*getattr(self, "sent", []), *requests]
        super().submit(requests)


def grow(seed, max_live=4, prompts=((5, 6, 7), (8,))):
    engine = Listening(random_script(seed), max_live=max_live)
    groups = [prompt_group(index, list(ids)) for index, ids in enumerate(prompts)]
    return run_groups(RandomTree(seed), engine, groups, seed=seed, step=0), engine


@given(st.integers(0, 10**6), st.integers(1, 9))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_random_trees_keep_every_invariant(seed, max_live):
    groups, engine = grow(seed, max_live)
    sent = {(request.noise.group, request.noise.leaf): request for request in engine.sent}
    assert len(sent) == len(engine.sent)
    unseen = dict(sent)
    for group in groups:
        group.validate()
        for segment in group.segments:
            assert segment.stop is not None or segment.kind is not Kind.SAMPLED
            assert np.isfinite(segment.logp).all() == (segment.kind is Kind.SAMPLED) or not len(segment)
            assert segment.policy_version == engine.policy_version
            path = group.path(segment.id)
            assert path[0][0].id == 0 and path[-1] == (segment, len(segment))
            if segment.kind is Kind.SAMPLED:
                context = group.context_ids(segment.id)[: -len(segment)]
                keys = [
                    key
                    for key, request in unseen.items()
                    if key[0] == group.id and np.array_equal(request.context, context)
                ]
                assert keys, "the context of a sampled segment is what the engine was sent"
                assert unseen.pop(keys[0]).position == len(context) - len(group.segments[0])
        sampled = sum(len(segment) for segment in group.segments if segment.kind is Kind.SAMPLED)
        assert sampled == group.cost.decoded
        assert sum(leaf.weight for leaf in group.leaves) == pytest.approx(1, abs=1e-12)
        assert sorted(leaf for rollout in group.rollouts for leaf in rollout.leaves) == list(range(len(group.leaves)))
        for leaf in group.leaves:
            assert len(group.response_ids(leaf)) == len(group.context_ids(leaf.segment)) - len(group.segments[0])
            assert 0 <= group.trained_length(leaf) <= len(group.response_ids(leaf))
    assert not unseen


def test_a_random_tree_has_splits_forced_tokens_and_copies():
    groups = [group for seed in range(40) for group in grow(seed)[0]]
    segments = [segment for group in groups for segment in group.segments]
    assert {segment.kind for segment in segments} >= {Kind.PROMPT, Kind.SAMPLED, Kind.FORCED, Kind.CONTEXT_COPY}
    assert any(
        segment.parent is not None and segment.parent_off < len(group.segments[segment.parent])
        for group in groups
        for segment in group.segments
    )


def broken_tree():
    """A group with a prompt, two answers, a forced stretch and a copy."""
    sampled = np.array([-0.5, -0.25], np.float32)
    nan = np.full(1, np.nan, np.float32)
    group = prompt_group(0, [5, 6])
    segments = (
        group.segments[0],
        Segment(1, 0, 2, Kind.SAMPLED, np.array([1, 2], np.int32), sampled),
        Segment(2, 1, 1, Kind.FORCED, np.array([9], np.int32), nan),
        Segment(3, 2, 1, Kind.SAMPLED, np.array([3, 0], np.int32), sampled),
        Segment(4, 1, 2, Kind.CONTEXT_COPY, np.array([2], np.int32), nan, origin=(Origin(1, 1, 2),)),
        Segment(5, 4, 1, Kind.SAMPLED, np.array([4, 0], np.int32), sampled),
    )
    return group.replace(segments=segments, leaves=(Leaf(0, 3), Leaf(1, 5)), rollouts=(Rollout((0,)), Rollout((1,))))


def test_the_tree_that_the_corruptions_start_from_is_valid():
    group = broken_tree()
    group.validate()
    assert group.context_ids(3).tolist() == [5, 6, 1, 9, 3, 0]
    assert group.response_ids(group.leaves[0]).tolist() == [1, 9, 3, 0]
    assert group.trained_length(group.leaves[0]) == 3
    assert group.context_ids(5).tolist() == [5, 6, 1, 2, 2, 4, 0]


CORRUPTIONS = {
    "id 7 differs": (1, {"id": 7}),
    "has no parent": (1, {"parent": None}),
    "parent 3 does not precede": (1, {"parent": 3}),
    "precede it": (2, {"parent": 2}),
    "parent_off 3": (2, {"parent_off": 3}),
    "exceeds the parent": (2, {"parent_off": -1}),
    "exactly the first segment": (3, {"kind": Kind.PROMPT}),
    "but 1 log-probs": (1, {"logp": np.array([-0.5], np.float32)}),
    "finite exactly on sampled": (1, {"logp": np.array([-0.5, np.nan], np.float32)}),
    "log-probs are finite": (2, {"logp": np.array([-1], np.float32)}),
    "exactly on sampled tokens": (1, {"kind": Kind.PROBE}),
    "context copy": (4, {"ids": np.array([1], np.int32)}),
    "must equal the tokens": (4, {"origin": ()}),
    "tokens of its origins": (4, {"origin": (Origin(1, 0, 2),)}),
}


@pytest.mark.parametrize("message", CORRUPTIONS)
def test_a_corrupted_segment_is_rejected(message):
    index, changes = CORRUPTIONS[message]
    group = broken_tree()
    segments = list(group.segments)
    segments[index] = replace(segments[index], **changes)
    with pytest.raises(ValueError, match=message):
        group.replace(segments=tuple(segments)).validate()


@pytest.mark.parametrize(
    "changes",
    [
        {"rollouts": (Rollout((0,)),)},
        {"rollouts": (Rollout((0, 1)), Rollout((1,)))},
        {"rollouts": (Rollout((0, 1, 2)),)},
        {"leaves": (Leaf(1, 3), Leaf(0, 5))},
        {"leaves": (Leaf(0, 3), Leaf(1, 6))},
    ],
)
def test_corrupted_leaves_and_rollouts_are_rejected(changes):
    with pytest.raises(ValueError, match="leaf"):
        broken_tree().replace(**changes).validate()
