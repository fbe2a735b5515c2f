"""Nodes of a tree against a search through all tokens of all paths."""

from dataclasses import replace

import numpy as np
import pytest
from credit_trees import flat, random_groups, stretches, tokens_of, tree, two_by_two
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import prompt_group

from laconic.errors import ConfigError, DataError
from laconic.rollout.drivers import EPTreeDriver
from laconic.rollout.engines.fake import ScriptedEngine
from laconic.rollout.records import Kind, Rollout
from laconic.rollout.scheduler import run_groups
from laconic.train.checks import check_settings
from laconic.train.credit import CREDITS, Grpo, Spo, TreeAdv, TreeCredit, TreeGrpo, assign
from laconic.train.credit.base import mean_advantage
from laconic.train.credit.tree import LeafTree, Node
from laconic.train.rows import flatten
from laconic.train.settings import load_settings

TREES = [method() for name, method in CREDITS.items() if isinstance(method(), TreeCredit) and name != "brpo"]


def test_a_late_split_cuts_a_segment_into_two_nodes():
    group = tree([(0, 2, 5), (1, 3, 4)])
    found = LeafTree.of(group, "x")
    assert found.nodes == (Node(0, 0, 2, -1), Node(1, 0, 3, 0), Node(1, 3, 5, 1), Node(2, 0, 4, 1))
    assert found.path_n == ((0, 1, 2), (0, 1, 3))
    assert [below.tolist() for below in found.below_K] == [[0, 1], [0, 1], [0], [1]]
    assert found.tokens_nK.tolist() == [[0, 3, 2, 0], [0, 3, 0, 4]]


def test_what_is_above_no_leaf_is_no_node_and_a_split_before_the_first_token_shares_nothing():
    group = tree([(0, 2, 5), (1, 0, 4)])
    assert LeafTree.of(group, "x").path_n == ((0, 1), (0, 2))
    lone = group.replace(leaves=group.leaves[1:2], rollouts=())
    lone = lone.replace(leaves=(lone.leaves[0].__class__(0, 2),), rollouts=(Rollout((0,)),))
    assert LeafTree.of(lone, "x").nodes == (Node(0, 0, 2, -1), Node(2, 0, 4, 0))


def test_prefix_weights_count_scored_leaves():
    found, scored = LeafTree.of(two_by_two(), "x"), np.array([True, True, True, False])
    assert found.prefix_weight("none", scored).tolist() == [1] * 7
    assert found.prefix_weight("mean", scored)[:3] == pytest.approx([1 / 3, 1 / 2, 1])
    assert found.prefix_weight("sqrt", scored)[1] == pytest.approx(2**-0.5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_nodes_are_the_runs_of_tokens_that_the_same_leaves_share(seed):
    for group in random_groups(seed):
        found, want = LeafTree.of(group, "x"), stretches(group)
        for rollout, path, runs in zip(group.rollouts, found.path_n, want, strict=True):
            nodes = [found.nodes[index] for index in path[1:]]
            assert [(n.segment, i) for n in nodes for i in range(n.start, n.stop)] == tokens_of(group, rollout)
            below = [(found.nodes[index].segment, frozenset(found.below_K[index].tolist())) for index in path[1:]]
            assert below == runs
            assert [found.nodes[index].parent for index in path] == [-1, *path[:-1]]
        for rollout, row in zip(group.rollouts, found.tokens_nK, strict=True):
            assert row.sum() == group.trained_tokens(rollout)


@pytest.mark.parametrize("method", TREES, ids=lambda method: method.name)
def test_a_rollout_of_several_leaves_is_refused(method):
    group = two_by_two()
    with pytest.raises(DataError, match=f"credit {method.name} needs a reward for every leaf.*unit=summary"):
        method.on_trees([1.0], [group.replace(rollouts=(Rollout((0, 1, 2, 3)),))], lambda value: [value])


@pytest.mark.parametrize("method", TREES, ids=lambda method: method.name)
def test_rewards_that_do_not_fit_the_rollouts_are_refused(method):
    for reward in ([1, 0], [np.inf, 0, 1, 1]):
        with pytest.raises(DataError, match="4 rollouts"):
            method.on_trees(reward, [two_by_two()], lambda value: [value])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_advantages_cover_every_trained_token_and_a_rollouts_own_is_their_mean(seed):
    groups = random_groups(seed)
    reward = np.random.default_rng(seed).random(sum(len(g.rollouts) for g in groups))
    for method in TREES:
        advantage_N, tokens = assign(method, reward, groups)
        pairs = [(group, rollout) for group in groups for rollout in group.rollouts]
        for (group, rollout), own, value in zip(pairs, tokens, advantage_N, strict=True):
            assert set(own) == set(group.trained(rollout))
            assert all(len(own[segment]) == len(group.segments[segment]) for segment in own)
            assert all(group.segments[segment].kind is Kind.SAMPLED for segment in own)
            each = [x for segment, kept in group.trained(rollout).items() for x in own[segment][:kept]]
            assert value == pytest.approx(np.mean(each) if each else 0.0) == mean_advantage(group, rollout, own)


def test_splits_of_an_answer_are_nodes_and_its_branches_are_no_fair_samples():
    driver = EPTreeDriver(group_size=2, splits=1, branches=2, max_completion=20, closing_words=())
    engine = ScriptedEngine(lambda context, request: [1, 2, 3, 4])
    (group,) = run_groups(driver, engine, [prompt_group(0, [5, 5])], seed=0, step=0)
    found = LeafTree.of(group, "x")
    assert [leaf.weight for leaf in group.leaves] == [0.5, 0, 0, 0.5, 0, 0]
    # the fake engine's most surprising token is the fourth: three are kept, or four where the tie is at the end
    kept = group.segments[3].parent_off
    assert found.path_n[0][1:] == (1, 2) and found.nodes[1:3] == (Node(1, 0, kept, 0), Node(1, kept, 5, 1))
    assert [below.tolist() for below in found.below_K[1:3]] == [[0, 1, 2], [0]]
    reward = [1, 0, 0, 0, 1, 1]
    equal, _ = assign(TreeAdv(whiten=False), reward, [group])
    fair, _ = assign(TreeAdv(whiten=False, leaf_weights="full"), reward, [group])
    assert equal.all() and fair[[1, 2, 4, 5]].tolist() == [0] * 4
    # whole answers: against both of them, and against themselves, the only fair leaf of their tree
    assert fair[[0, 3]] == pytest.approx([3 * 0.25, -3 * 0.25])
    assert assign(TreeGrpo(), reward, [group])[0] == pytest.approx(
        Grpo(1e-6)(reward, [0] * 6) + Grpo(1e-6)(reward, [0, 0, 0, 1, 1, 1])
    )


def trained(rows):
    """Sum over rows of weight x advantage of each trained token, by its id; prompts have ids 7 and 8."""
    total = {}
    for row in rows:
        for token, value in zip(row.ids[row.trained], (row.weight * row.advantage)[row.trained], strict=True):
            total[int(token)] = total.get(int(token), 0.0) + float(value)
    return total


def test_a_stretch_above_several_leaves_is_trained_once_in_the_rows_of_an_update():
    group = two_by_two()
    named = [
        s if not s.id else replace(s, ids=(100 * s.id + np.arange(len(s))).astype(np.int32)) for s in group.segments
    ]
    group = group.replace(segments=tuple(named))
    advantage_N, tokens = assign(Spo(), [1, 0, 1, 1], [group])
    rows = flatten([group], advantage_N, normalizer="constant", max_completion=10, token_advantage=tokens)
    want = {1: -0.25, 2: 0.25, 3: 0.5, 4: -0.5}
    got = {token: value * 4 * 10 for token, value in trained(rows).items() if value}
    assert got == pytest.approx({100 * s + i: value for s, value in want.items() for i in range(len(named[s]))})


def test_a_run_whose_rollouts_have_several_leaves_is_refused_before_it_starts():
    for name in ("delethink", "summary", "fork_join"):
        settings_of_run = load_settings(f"configs/methods/{name}.yaml", ["credit.name=spo"])
        with pytest.raises(ConfigError, match=f"credit spo compares leaves.*rollout.driver {name}"):
            check_settings(settings_of_run, None)
    whole = load_settings("configs/methods/anytime.yaml", ["credit.name=treerl", "rollout.driver.unit=trace"])
    with pytest.raises(ConfigError, match="16 leaves and one reward"):
        check_settings(whole, None)
    check_settings(load_settings("configs/methods/treepo.yaml", ["credit.name=spo"]), None)


@pytest.mark.parametrize("name", CREDITS)
def test_every_estimator_is_called_by_one_name(name):
    groups = flat([[3, 4, 5], [2, 6]])
    if name == "brpo":
        with pytest.raises(DataError, match="unit=summary"):
            assign(CREDITS[name](), [1, 0, 1, 0, 1], groups)
        return
    advantage_N, tokens = assign(CREDITS[name](), [1, 0, 1, 0, 1], groups)
    assert advantage_N.shape == (5,) and advantage_N[0] == pytest.approx(advantage_N[2])
    assert (tokens is not None) == isinstance(CREDITS[name](), TreeCredit)
