"""Credit on trees: worked numbers, definitions computed leaf by leaf, and what holds for every tree."""

import numpy as np
import pytest
from credit_trees import Wire, by_token, flat, random_groups, random_rewards, sharing_token, stretches, tree, two_by_two
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import ConfigError
from laconic.rollout.records import Kind
from laconic.train.credit import Grpo, Rloo, Spo, TreeAdv, TreeGrpo, TreeRL, assign

TOLERANCE = 1e-9
METHODS = [
    TreeAdv(),
    TreeAdv(variant="group_size", skip_equal=True),
    TreeAdv(variant="segment"),
    TreeAdv(leaf_weights="full"),
    TreeRL(),
    Spo(),
    Spo(advantage="sibling_z", likely=0.3),
    TreeGrpo(),
]
seeds = given(st.integers(0, 10**6))
some = settings(max_examples=25, deadline=None, derandomize=True)
REWARD = [1.0, 0.0, 1.0, 1.0]
"""Of the leaves u/a/x, u/a/y, u/b/z, u/b/w."""


def on(method, reward, *groups):
    return method.on_trees(reward, groups, lambda value: [value])


def first_token(advantages, segment):
    """The advantage of a segment in the first row that holds it; all rows and tokens agree."""
    found = [float(one[segment][0]) for one in advantages if segment in one]
    assert found == pytest.approx([found[0]] * len(found))
    return found[0]


# worked numbers


@pytest.mark.parametrize(
    ("variant", "expected"),
    [("average", [0.375, -0.625, 0.125, 0.125]), ("group_size", [1 / 3, -2 / 3, 1 / 6, 1 / 6])],
)
def test_deviations_from_subtrees_are_averaged(variant, expected):
    advantage_N, tokens = assign(TreeAdv(variant=variant, whiten=False), REWARD, [two_by_two()])
    np.testing.assert_allclose(advantage_N, expected, atol=TOLERANCE)
    assert all(np.ptp(np.concatenate(list(one.values()))) == 0 for one in tokens)


def test_averages_are_whitened_over_the_tokens_of_all_rows():
    # paths of 3, 2, 4 and 1 tokens: mean .05, unbiased variance .1395833
    group = two_by_two((1, 1, 2, 1, 3, 0))
    advantage_N, _ = assign(TreeAdv(), REWARD, [group])
    np.testing.assert_allclose(advantage_N, [0.86989, -1.80670, 0.20074, 0.20074], atol=5e-6)


def test_segments_get_what_they_add_to_the_value_of_their_path():
    advantages = on(TreeAdv(variant="segment", whiten=False), REWARD, two_by_two())
    found = [first_token(advantages, segment) for segment in range(1, 7)]
    np.testing.assert_allclose(found, [-1 / 7, 1 / 7, 3 / 7, -3 / 7, 0, 0], atol=TOLERANCE)


def test_joined_deviations_of_the_segment_variant():
    tree_adv = TreeAdv(variant="segment", whiten=False)
    # two leaves below one node: r' is the node's value plus what the leaf adds
    advantages = on(tree_adv, REWARD, two_by_two())
    joined = [sum(float(one[s][0]) for s in one) for one in advantages]
    np.testing.assert_allclose(joined, [2 / 7, -4 / 7, 1 / 7, 1 / 7], atol=TOLERANCE)


def test_global_and_local_advantage_of_a_tree_of_four_leaves():
    # centred leave-one-out: 2/3, -2/3, -2/3, 2/3
    group = tree([(0, 2, 1), (0, 2, 1), *[(1, 1, 1)] * 2, *[(2, 1, 1)] * 2])
    np.testing.assert_allclose(Rloo()([1, 0, 0, 1], [0] * 4), [2 / 3, -2 / 3, -2 / 3, 2 / 3], atol=TOLERANCE)
    advantages = on(TreeRL(), [1, 0, 0, 1], group)
    np.testing.assert_allclose([first_token(advantages, s) for s in (1, 2)], 0, atol=TOLERANCE)
    np.testing.assert_allclose([first_token(advantages, s) for s in (3, 4)], [4 / 3, -4 / 3], atol=TOLERANCE)


@pytest.mark.parametrize(("rule", "power"), [("none", 0), ("sqrt", 0.5), ("mean", 1)])
def test_a_shared_prefix_weighs_by_its_rule(rule, power):
    advantages = on(TreeRL(prefix_weight=rule), [1, 1, 0, 0], two_by_two())
    # centred: 2/3, 2/3, -2/3, -2/3; V(a) = 2/3 is all gain, and x adds nothing to it
    assert first_token(advantages, 1) == pytest.approx(4 / 3 / 2**power)
    assert first_token(advantages, 3) == pytest.approx(2 / 3)


def test_segment_values_are_means_of_children():
    advantages = on(Spo(prefix_weight="none"), REWARD, two_by_two())
    found = [first_token(advantages, segment) for segment in range(1, 7)]
    np.testing.assert_allclose(found, [-0.25, 0.25, 0.5, -0.5, 0, 0], atol=TOLERANCE)
    each_once = on(Spo(), REWARD, two_by_two())
    assert first_token(each_once, 1) == pytest.approx(-0.125) and first_token(each_once, 3) == pytest.approx(0.5)


def test_siblings_are_compared_by_their_population_deviation():
    advantages = on(Spo(advantage="sibling_z", prefix_weight="none"), REWARD, two_by_two())
    found = [first_token(advantages, segment) for segment in range(1, 7)]
    np.testing.assert_allclose(found, [-1, 1, 1, -1, 0, 0], atol=TOLERANCE)


def test_likely_tokens_are_not_trained():
    group = two_by_two()
    logp = np.log(np.array([0.95, 0.5], np.float32))
    changed = group.segments[3].__class__(3, 1, 1, Kind.SAMPLED, group.segments[3].ids, logp)
    group = group.replace(segments=(*group.segments[:3], changed, *group.segments[4:]))
    masked = on(Spo(likely=0.9), REWARD, group)
    np.testing.assert_allclose(masked[0][3], [0, 0.5], atol=TOLERANCE)
    np.testing.assert_allclose(on(Spo(), REWARD, group)[0][3], [0.5, 0.5], atol=TOLERANCE)


def test_z_scores_in_the_prompt_and_in_the_tree_add_up():
    # two trees, {1, 0} and {1, 1}: .5, -1.5, .5, .5 and .7071, -.7071, 0, 0
    advantage_N, _ = assign(TreeGrpo(), REWARD, [two_by_two()])
    np.testing.assert_allclose(advantage_N, [1.2071, -2.2071, 0.5, 0.5], atol=5e-5)


def test_branching_weights_take_the_bias_off_a_mean_over_leaves():
    # one answer ends early and is right; the other path fans out into three, of which one is right
    group = tree([(0, 2, 1), (0, 2, 1), *[(2, 1, 1)] * 3], weights=[1 / 2, 1 / 6, 1 / 6, 1 / 6])
    reward = [1, 0, 0, 1]
    equal, _ = assign(TreeAdv(whiten=False), reward, [group])
    unbiased, _ = assign(TreeAdv(whiten=False, leaf_weights="baseline"), reward, [group])
    np.testing.assert_allclose(equal, [1 / 2, (-1 / 2 - 1 / 3) / 2, (-1 / 2 - 1 / 3) / 2, (1 / 2 + 2 / 3) / 2])
    np.testing.assert_allclose(unbiased, [1 / 3, -1 / 2, -1 / 2, 1 / 2], atol=TOLERANCE)
    full, _ = assign(TreeAdv(whiten=False, leaf_weights="full"), reward, [group])
    np.testing.assert_allclose(full, unbiased * [2, 2 / 3, 2 / 3, 2 / 3], atol=TOLERANCE)


def test_a_leaf_of_weight_0_moves_a_mean_only_where_weights_do_not_count():
    group = tree([(0, 2, 3)] * 3, weights=[0.5, 0.5, 0.0])
    found = {
        weights: assign(TreeAdv(whiten=False, leaf_weights=weights), [1, 0, 1], [group])[0]
        for weights in ("equal", "baseline", "full")
    }
    np.testing.assert_allclose(found["equal"], [1 / 3, -2 / 3, 1 / 3], atol=TOLERANCE)
    np.testing.assert_allclose(found["baseline"], [0.5, -0.5, 0.5], atol=TOLERANCE)
    np.testing.assert_allclose(found["full"], [0.75, -0.75, 0], atol=TOLERANCE)


def test_weights_of_which_all_are_0_in_a_subtree_count_the_same_there():
    group = tree([(0, 2, 1), (0, 2, 1), (1, 1, 1), (1, 1, 1)], weights=[1.0, 0.0, 0.0])
    found, _ = assign(TreeAdv(whiten=False, leaf_weights="baseline"), [1, 1, 0], [group])
    np.testing.assert_allclose(found, [0, (0 + 0.5) / 2, (-1 - 0.5) / 2], atol=TOLERANCE)


def test_published_forms_of_a_lone_answer_are_settings():
    (group,) = flat([[3]])
    for method in (TreeAdv(whiten=False), TreeGrpo(), TreeRL(), Spo()):
        assert assign(method, [1.0], [group])[0].tolist() == [0]
    assert assign(TreeAdv(whiten=False, lone="reward"), [1.0], [group])[0].tolist() == [1]
    assert assign(TreeGrpo(lone="reward"), [1.0], [group])[0].tolist() == [2]


def test_subtrees_of_equal_rewards_can_be_left_out():
    found, _ = assign(TreeAdv(whiten=False, skip_equal=True), REWARD, [two_by_two()])
    np.testing.assert_allclose(found, [0.375, -0.625, 0.25, 0.25], atol=TOLERANCE)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TreeAdv(epsilon=0), "credit.epsilon is 0"),
        (lambda: TreeAdv(variant="segment", skip_equal=True), "skip_equal has no effect"),
        (lambda: TreeGrpo(epsilon=0), "credit.epsilon is 0"),
        (lambda: Spo(likely=0), "credit.likely is 0"),
        (lambda: Spo(likely=1.5), "credit.likely is 1.5"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


# definitions, leaf by leaf


def deviations(reward_n, runs, leaf):
    """(leaves below, deviation) of every node above a leaf, the prompt first."""
    members = [frozenset(range(len(reward_n))), *(shared for _, shared in runs[leaf])]
    members = [[i for i in group if not np.isnan(reward_n[i])] for group in members]
    return [(len(group), reward_n[leaf] - np.mean([reward_n[i] for i in group])) for group in members]


@some
@seeds
def test_tree_adv_follows_its_definition(seed):
    for group in random_groups(seed):
        reward_n, runs = random_rewards([group], seed, unscored=0.2), stretches(group)
        if len({*reward_n[~np.isnan(reward_n)].tolist()}) < 2:
            continue
        average = on(TreeAdv(whiten=False), reward_n, group)
        sized = on(TreeAdv(whiten=False, variant="group_size"), reward_n, group)
        for leaf, rollout in enumerate(group.rollouts):
            if np.isnan(reward_n[leaf]):
                assert not any(one.any() for one in (*average[leaf].values(), *sized[leaf].values()))
                continue
            all_of_them = deviations(reward_n, runs, leaf)
            kept = [all_of_them[0], *(one for one in all_of_them[1:] if one[0] > 1)]
            want = np.mean([d for _, d in kept])
            want_sized = sum(n * d for n, d in kept) / sum(n for n, _ in kept)
            assert [*by_token(group, rollout, average[leaf]).values()] == pytest.approx(
                [want] * group.trained_tokens(rollout), abs=TOLERANCE
            )
            assert [*by_token(group, rollout, sized[leaf]).values()] == pytest.approx(
                [want_sized] * group.trained_tokens(rollout), abs=TOLERANCE
            )


def mean_of_children(paths, value_n, depth=0):
    """Plain mean, recursively, over what follows each of these paths at some depth."""
    ends = [value_n[leaf] for leaf, path in paths if len(path) == depth and not np.isnan(value_n[leaf])]
    onward = dict.fromkeys(path[depth] for _, path in paths if len(path) > depth)
    below = [[one for one in paths if len(one[1]) > depth and one[1][depth] == step] for step in onward]
    values = [v for v in (mean_of_children(some, value_n, depth + 1) for some in below) if not np.isnan(v)]
    return np.mean([*ends, *values]) if ends or values else np.nan


@some
@seeds
def test_values_of_nodes_follow_their_definitions(seed):
    for group in random_groups(seed):
        reward_n, runs = random_rewards([group], seed, unscored=0.2), stretches(group)
        if len({*reward_n[~np.isnan(reward_n)].tolist()}) < 2:
            continue
        scored = {i for i in range(len(reward_n)) if not np.isnan(reward_n[i])}
        everyone = list(enumerate(runs))
        joined_n = np.full(len(reward_n), np.nan)
        for leaf in scored:
            found = deviations(reward_n, runs, leaf)
            joined_n[leaf] = sum(n * d for n, d in found) / sum(n for n, _ in found)
        centred_n = {i: reward_n[i] - np.mean([reward_n[j] for j in scored - {i}]) for i in scored}
        spo, z = on(Spo(), reward_n, group), on(Spo(advantage="sibling_z"), reward_n, group)
        treerl, segment = on(TreeRL(), reward_n, group), on(TreeAdv(variant="segment", whiten=False), reward_n, group)
        for leaf in scored:
            rollout = group.rollouts[leaf]
            names = [name for name, _ in runs[leaf]]
            for token, shared in sharing_token(group, rollout).items():
                depth = next(i for i, run in enumerate(runs[leaf]) if run == (token[0], shared))
                here = [one for one in everyone if one[1][: depth + 1] == runs[leaf][: depth + 1]]
                above = [one for one in everyone if one[1][:depth] == runs[leaf][:depth]]
                assert {i for i, _ in here} == shared and names[depth] == token[0]
                gain = mean_of_children(here, reward_n, depth + 1) - mean_of_children(above, reward_n, depth)
                k = len(scored & shared)
                assert spo[leaf][token[0]][token[1]] == pytest.approx(gain / k, abs=TOLERANCE)
                siblings = dict.fromkeys(path[depth] for _, path in above if len(path) > depth)
                values = [
                    mean_of_children([o for o in above if len(o[1]) > depth and o[1][depth] == s], reward_n, depth + 1)
                    for s in siblings
                ]
                values += [reward_n[i] for i, path in above if len(path) == depth]
                std = np.nanstd(values)
                want = gain / std / k if std > 1e-9 else 0.0
                assert z[leaf][token[0]][token[1]] == pytest.approx(want, abs=1e-7)

                value = np.mean([centred_n[i] for i in scored & shared])
                before = np.mean([centred_n[i] for i in scored & {i for i, _ in above}])
                want = (value + value - before) / np.sqrt(k)
                assert treerl[leaf][token[0]][token[1]] == pytest.approx(want, abs=TOLERANCE)

                base = mean_of_children(above, joined_n, depth) if depth else 0.0
                want = mean_of_children(here, joined_n, depth + 1) - base
                assert segment[leaf][token[0]][token[1]] == pytest.approx(want, abs=TOLERANCE)


# what holds for every tree


@some
@seeds
def test_advantages_are_finite_and_0_where_nothing_was_scored_or_all_rewards_are_equal(seed):
    groups = random_groups(seed)
    reward_N = random_rewards(groups, seed, unscored=0.3)
    for method in METHODS:
        found = on(method, reward_N, *groups)
        assert all(np.isfinite(values).all() for one in found for values in one.values())
        silent = [one for one, reward in zip(found, reward_N, strict=True) if np.isnan(reward)]
        assert not any(values.any() for one in silent for values in one.values())
        for same in (0.0, 1.0, 0.1, -2.7):
            equal = on(method, np.full(len(reward_N), same), *groups)
            assert not any(values.any() for one in equal for values in one.values())


@some
@seeds
def test_a_right_leaf_never_gets_less_than_a_wrong_one_of_its_prompt(seed):
    groups = random_groups(seed)
    rng = np.random.default_rng(seed)
    right = [rng.integers(0, 2, len(g.rollouts)).astype(float) for g in groups]
    for method in (TreeAdv(), TreeAdv(variant="group_size"), TreeAdv(leaf_weights="baseline"), TreeGrpo()):
        found = on(method, np.concatenate(right), *groups)
        for group, of_group in zip(groups, right, strict=True):
            mine, found = found[: len(of_group)], found[len(of_group) :]
            pairs = zip(group.rollouts, mine, strict=True)
            level = [{round(value, 9) for value in by_token(group, *pair).values()} for pair in pairs]
            assert all(len(values) <= 1 for values in level), "one advantage for all tokens of a path"
            of_right = [min(values) for values, good in zip(level, of_group, strict=True) if good and values]
            of_wrong = [max(values) for values, good in zip(level, of_group, strict=True) if not good and values]
            assert not of_right or not of_wrong or min(of_right) >= max(of_wrong)


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("same", [0.0, 1.0])
def test_a_prompt_of_equal_outcomes_gets_nothing_beside_others_and_takes_nothing_from_them(method, same):
    mixed, equal = two_by_two(), two_by_two((2, 1, 1, 3, 1, 1)).replace(id=1)
    beside = on(method, [*REWARD, *[same] * 4], mixed, equal)
    assert not any(values.any() for one in beside[4:] for values in one.values())
    for one, lone in zip(beside[:4], on(method, REWARD, mixed), strict=True):
        for segment in one:
            np.testing.assert_array_equal(one[segment], lone[segment])


@some
@seeds
def test_advantages_do_not_depend_on_the_order_of_groups_and_rollouts(seed):
    groups = random_groups(seed)
    reward_N = random_rewards(groups, seed, unscored=0.1)
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *(len(g.rollouts) for g in groups)])
    order = rng.permutation(len(groups))
    mixed, index_N = [], []
    for g in order:
        within = rng.permutation(len(groups[g].rollouts))
        mixed.append(groups[g].replace(rollouts=tuple(groups[g].rollouts[i] for i in within)))
        index_N += (starts[g] + within).tolist()
    for method in METHODS:
        straight, shuffled = on(method, reward_N, *groups), on(method, reward_N[index_N], *mixed)
        for at, one in zip(index_N, shuffled, strict=True):
            assert set(one) == set(straight[at])
            for segment in one:
                np.testing.assert_allclose(one[segment], straight[at][segment], atol=1e-7)


@some
@seeds
def test_groups_of_a_batch_are_whitened_together_wherever_they_are(seed):
    groups = random_groups(seed)
    reward_N = random_rewards(groups, seed, unscored=0.1)
    first = len(groups[0].rollouts)
    for method in (TreeAdv(), TreeAdv(variant="segment")):
        together = on(method, reward_N, *groups)
        wire = Wire()
        method.on_trees(reward_N[first:], groups[1:], wire)
        apart = method.on_trees(reward_N[:first], groups[:1], wire)
        for one, same in zip(apart, together, strict=False):
            for segment in one:
                np.testing.assert_array_equal(one[segment], same[segment])


@some
@seeds
def test_sums_that_are_0_by_construction(seed):
    groups = random_groups(seed)
    reward_N = random_rewards(groups, seed)
    pairs = [(group, rollout) for group in groups for rollout in group.rollouts]
    white = on(TreeAdv(), reward_N, *groups)
    total = sum(sum(by_token(*pair, one).values()) for pair, one in zip(pairs, white, strict=True))
    assert total == pytest.approx(0, abs=1e-6)
    advantage_N = assign(TreeGrpo(), reward_N, groups)[0]
    empty = [group.trained_tokens(rollout) == 0 for group, rollout in pairs]
    if not any(empty):
        assert advantage_N.sum() == pytest.approx(0, abs=1e-6)


@some
@given(st.lists(st.integers(1, 64), min_size=1, max_size=4), st.integers(0, 10**6))
def test_independent_answers_are_trees_of_one_node_each(sizes, seed):
    rng = np.random.default_rng(seed)
    groups = flat([rng.integers(1, 5, n).tolist() for n in sizes])
    reward_N = random_rewards(groups, seed, unscored=0.1)
    group_N = np.repeat(np.arange(len(sizes)), sizes)
    length_N = np.array([g.trained_tokens(r) for g in groups for r in g.rollouts])
    for method in METHODS:
        batch = (length_N, lambda value: [value]) if isinstance(method, TreeAdv) else ()
        if isinstance(method, Spo) and method.likely < 1:
            method = Spo(advantage=method.advantage)
        np.testing.assert_allclose(assign(method, reward_N, groups)[0], method(reward_N, group_N, *batch), atol=1e-7)
    np.testing.assert_allclose(TreeGrpo(epsilon=1e-4)(reward_N, group_N), Grpo()(reward_N, group_N), atol=TOLERANCE)
