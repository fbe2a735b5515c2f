"""Budget-relative advantages: worked numbers, and groups of the anytime driver against the formula with loops."""

from dataclasses import replace

import numpy as np
import pytest
from credit_trees import flat
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import prompt_group, random_script

from laconic.errors import ConfigError, DataError
from laconic.rollout.drivers import AnytimeDriver
from laconic.rollout.engines.fake import ScriptedEngine
from laconic.rollout.scheduler import run_groups
from laconic.train.checks import check_settings
from laconic.train.credit import Brpo, DrGrpo, assign
from laconic.train.rows import flatten
from laconic.train.settings import load_settings

SCORES = [[0, 0, 1, 1], [0, 0, 0, 1]]
UNIFORM, LINEAR, BASE = [0.25] * 4, [0.1, 0.2, 0.3, 0.4], [0, 0, 0, 1]
END = 8


@pytest.mark.parametrize(
    ("prior", "expected"),
    [
        (UNIFORM, [[0.125, 0.21875, 0.3125, 0.0803571], [-0.125, -0.03125, 0.0625, 0.1875]]),
        (LINEAR, [[0.15, 0.2875, 0.425, 0.1285714], [-0.15, -0.0125, 0.125, 0.3]]),
        (BASE, [[0, 0.25, 0.5, 0.3214286], [0, 0.25, 0.5, 0.75]]),
    ],
)
def test_worked_numbers_of_two_traces_and_four_budgets(prior, expected):
    np.testing.assert_allclose(Brpo().thinking(SCORES, prior), expected, atol=5e-8)


def test_worked_numbers_of_another_pair():
    found = Brpo().thinking([[0, 0, 1, 1], [0, 1, 1, 1]], UNIFORM)
    expected = [[-0.125, 0.03125, 0.25, 0.08036], [0.125, 0.28125, 0.08333, 0.02679]]
    np.testing.assert_allclose(found, expected, atol=5e-6)


def test_what_is_subtracted_in_each_mode():
    earned = np.array([[0.5, 0.5, 0.5, 0.25], [0.25, 0.25, 0.25, 0.25]])
    own = np.array([[0, 0, 0, 1 / 7 * 1], [0, 0, 0, 0]])
    group = np.array([0.375, 0.375, 0.375, 0.25])
    modes = {"none": earned, "v1only": earned - own, "v2only": earned - group, "notrain": 0 * earned}
    for mode, expected in modes.items():
        np.testing.assert_allclose(Brpo(mode=mode).thinking(SCORES, UNIFORM), expected, atol=1e-9)


def test_own_scores_are_weighted_by_recency():
    # s = 3 of the first trace: (0 + 0 + 4) / 7 of P_3 = 1/4; with equal weights (0 + 0 + 1) / 3
    by_two, equal = (Brpo(mode="v1only", recency=r).thinking(SCORES, UNIFORM)[0, 3] for r in (2, 1))
    assert (0.25 - by_two, 0.25 - equal) == (pytest.approx(1 / 7), pytest.approx(1 / 12))


def test_two_traces_of_the_same_profile_still_learn_from_their_own_progress():
    found = Brpo().thinking([[0, 1, 1, 1]] * 2, UNIFORM)
    assert found[0, 1:].any() and not Brpo(mode="v2only").thinking([[0, 1, 1, 1]] * 2, UNIFORM).any()


@pytest.mark.parametrize("score", [0.0, 1.0, 0.1])
@pytest.mark.parametrize("prior", [UNIFORM, LINEAR, BASE])
def test_equal_scores_throughout_a_group_give_exactly_0(score, prior):
    assert not Brpo().thinking(np.full((3, 4), score), prior).any()


def test_a_lone_trace_has_no_group_baseline():
    found = Brpo().thinking([[0, 0, 1, 1]], UNIFORM)
    np.testing.assert_allclose(found, [[0.5, 0.5, 0.5, 0.25 - 3 / 4 * 1 / 7]], atol=1e-9)


def test_a_trace_without_all_scores_gets_0_and_is_in_no_baseline():
    found = Brpo().thinking([*SCORES, [0, np.nan, 1, 1]], UNIFORM)
    np.testing.assert_allclose(found, [*Brpo().thinking(SCORES, UNIFORM), [0] * 4], atol=1e-12)


def anytime(**changes):
    fields = {"thinking_tokens": 8, "summaries": 2, "summary_tokens": 3, "group_size": 2, "max_completion": 20}
    marks = {"think_end": (END,), "cut": (7, END), "header": (6,)}
    return AnytimeDriver(**{**fields, **marks, "unit": "summary", **changes})


def roll_out(driver, thoughts, answer=(9,)):
    """A group whose traces have these thoughts, in order."""

    def script(context, request):
        return thoughts[request.noise.leaf] if len(context) == 2 else answer

    (group,) = run_groups(driver, ScriptedEngine(script), [prompt_group(0, [5, 5])], seed=0, step=0)
    return group


def on(method, reward, *groups):
    return method.on_trees(reward, groups, lambda value: [value])


def thinking_tokens(group, advantages, trace):
    """Advantages of a thought's tokens, summed over all rows that hold it."""
    rows = [one[trace + 1] for one in advantages if trace + 1 in one]
    assert sum(row.any() for row in rows) <= 1
    return np.sum(rows, axis=0)


def test_stretches_between_budgets_get_their_advantage_and_summaries_their_own():
    group = roll_out(anytime(), [[1] * 20, [2, 2, 2, 2, END]])
    score = [0, 0, 0, 0, 1, 1, 1, 1, *[0, 0, 0, 0, 0, 0, 1, 1]]  # r = SCORES
    advantages = on(Brpo(), score, group)
    long, short = Brpo().thinking(SCORES, UNIFORM)
    np.testing.assert_allclose(thinking_tokens(group, advantages, 0), np.repeat(long, 2), atol=1e-12)
    # the second thought has five tokens, so budgets 6 and 8 fall together on it
    np.testing.assert_allclose(thinking_tokens(group, advantages, 1), np.repeat(short[:3], [2, 2, 1]), atol=1e-12)
    summary = [one[segment][0] for one in advantages for segment in one if segment > 2]
    assert summary == pytest.approx([0] * 8 + [0] * 4 + [-0.5, -0.5, 0.5, 0.5])


def test_summaries_are_compared_with_those_of_the_same_prefix():
    group = roll_out(anytime(budgets=1, summaries=4, group_size=1), [[1] * 20])
    found = on(Brpo(), [1, 0, 1, 1], group)
    assert [one[s][0] for one in found for s in one if s > 1] == pytest.approx([0.25, -0.75, 0.25, 0.25])


def test_one_summary_to_a_budget_is_compared_with_the_group():
    group = roll_out(anytime(budgets=2, summaries=1), [[1] * 20, [2] * 20])
    found = on(Brpo(), [1, 0, 0, 0], group)
    assert [one[s][0] for one in found for s in one if s > 2] == pytest.approx([0.5, 0, -0.5, 0])


def test_the_grpo_arm_trains_the_answers_of_the_whole_thought_only():
    group = roll_out(anytime(budgets=2), [[1] * 20, [2] * 20])
    score = [1, 0, 1, 0, 0, 1, 0, 1]
    for which, trained in (("all", [0.5, -0.5, 0.5, -0.5]), ("last", [0, 0, 0.5, -0.5]), ("none", [0] * 4)):
        found = on(Brpo(summaries=which), score, group)[:4]
        assert [one[s][0] for one in found for s in one if s > 2] == pytest.approx(trained)


def test_a_budget_that_weighs_nothing_trains_its_summaries_all_the_same():
    group = roll_out(anytime(prior="base"), [[1] * 20, [2] * 20])
    assert group.leaves[0].weight == 0
    found = on(Brpo(), [1, 0, *[0] * 6, *[0] * 8], group)
    assert [one[s][0] for one in found[:3] for s in one if s > 2] == pytest.approx([0.5, -0.5, 0])


def in_loops(method, driver, group, score):
    """Advantage of each thought's tokens and of each summary, from the driver's own account of its leaves."""
    prior, size = driver.prior_of(group), driver.group_size
    shape = (size, driver.budgets, driver.summaries)
    table, found = np.zeros(shape), np.zeros(shape)
    for leaf, value in zip(group.leaves, score, strict=True):
        table[driver.budget_of(leaf)] = value
    mean, thoughts = table.mean(axis=2), []
    S = driver.budgets
    for g in range(size):
        cuts = driver.cuts(group, g + 1)
        value_T = np.zeros(len(group.segments[g + 1]))
        for s in range(S):
            left = [sum(prior[k] * mean[h, k] for k in range(s, S)) for h in range(size)]
            past = sum(2**k for k in range(s)) or 1
            v1 = sum(2**k * mean[g, k] for k in range(s)) / past * sum(prior[s:])
            v2 = sum(left) / size if size > 1 else 0.0
            value_T[cuts[s - 1] if s else 0 : cuts[s]] = left[g] - (s * v1 + (S - s) * v2) / S
        thoughts.append(value_T)
        for s in range(S):
            same = [table[g, t] for t in range(S) if cuts[t] == cuts[s]] if driver.summaries > 1 else table[:, s]
            found[g, s] = table[g, s] - np.mean(same)
    return thoughts, [found[driver.budget_of(leaf)] for leaf in group.leaves]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from(["grid", "sampled"]),
    st.sampled_from(["uniform", "linear", "base"]),
)
def test_groups_of_the_driver_get_what_the_formula_says(seed, budgets, summaries, size, placement, prior):
    driver = anytime(budgets=budgets, summaries=summaries, group_size=size, placement=placement, prior=prior)
    prompts = [prompt_group(i, [5, 4 + i]) for i in range(3)]
    groups = run_groups(driver, ScriptedEngine(random_script(seed)), prompts, seed=1, step=0)
    rng = np.random.default_rng(seed)
    score = [rng.integers(0, 2, len(group.rollouts)) for group in groups]
    found = on(Brpo(), np.concatenate(score), *groups)
    for group, of_group in zip(groups, score, strict=True):
        mine, found = found[: len(group.rollouts)], found[len(group.rollouts) :]
        thoughts, summary = in_loops(Brpo(), driver, group, of_group)
        for trace, value_T in enumerate(thoughts):
            np.testing.assert_allclose(thinking_tokens(group, mine, trace), value_T, atol=1e-9)
        several = any(len({*driver.cuts(group, g + 1)}) > 1 for g in range(size))
        for leaf, one, value in zip(group.leaves, mine, summary, strict=True):
            assert set(one) == set(group.trained(group.rollouts[leaf.id]))
            if summaries > 1 or several or budgets == 1:
                np.testing.assert_allclose(one[leaf.segment], value, atol=1e-9)
    assert not found


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_order_of_rollouts_and_unscored_summaries(seed):
    driver = anytime(budgets=3, group_size=3)
    (group,) = run_groups(driver, ScriptedEngine(random_script(seed)), [prompt_group(0, [5])], seed=1, step=0)
    rng = np.random.default_rng(seed)
    score = np.where(rng.random(len(group.rollouts)) < 0.2, np.nan, rng.integers(0, 2, len(group.rollouts)))
    straight = on(Brpo(), score, group)
    order = rng.permutation(len(score))
    shuffled = on(Brpo(), score[order], group.replace(rollouts=tuple(group.rollouts[i] for i in order)))
    for at, one in zip(order, shuffled, strict=True):
        for segment in one:
            np.testing.assert_allclose(one[segment], straight[at][segment], atol=1e-12)
            assert np.isfinite(one[segment]).all()
    for one, value in zip(straight, score, strict=True):
        if np.isnan(value):
            assert not any(one[segment].any() for segment in one if segment > 3)
    found = on(Brpo(mode="v2only", summaries="none"), np.nan_to_num(score), group)
    total = sum(thinking_tokens(group, found, g)[:1] for g in range(3))
    assert total == pytest.approx(0, abs=1e-9)


def test_each_token_of_a_thought_is_trained_once_in_the_rows_of_an_update():
    group = roll_out(anytime(), [[1] * 20, [2, 2, 2, 2, END]])
    named = [
        s if not s.id else replace(s, ids=(100 * s.id + np.arange(len(s))).astype(np.int32)) for s in group.segments
    ]
    group = group.replace(segments=tuple(named))
    score = [0, 0, 0, 0, 1, 1, 1, 1, *[0, 0, 0, 0, 0, 0, 1, 1]]
    advantage_N, tokens = assign(Brpo(), score, [group])
    rows = flatten([group], advantage_N, normalizer="constant", max_completion=20, token_advantage=tokens)
    total = {}
    for row in rows:
        for token, value in zip(row.ids[row.trained], (row.weight * row.advantage)[row.trained], strict=True):
            total[int(token)] = total.get(int(token), 0.0) + float(value) * 16 * 20
    first, second = Brpo().thinking(SCORES, UNIFORM)
    assert [total[100 + i] for i in range(8)] == pytest.approx(np.repeat(first, 2))
    assert [total[200 + i] for i in range(5)] == pytest.approx(np.repeat(second[:3], [2, 2, 1]))
    # thoughts once each, and the summaries that differ from others of their prefix
    assert len(rows) == 2 + 4 - 1


def test_a_run_that_cannot_use_it_is_refused_before_it_starts():
    config = "configs/methods/brpo.yaml"
    check_settings(load_settings(config), None)
    for change, words in (
        ("rollout.driver.unit=trace", "rollout.driver.unit=summary"),
        ("rollout.driver.name=flat", "rollout.driver.name=anytime"),
        ("objective.normalizer=row_mean", "normalizer=constant"),
        ("reward.selection={name: gfpo, keep: 2}", "would leave it out too; set reward.selection.name=all"),
    ):
        with pytest.raises(ConfigError, match=f"credit brpo .*{words}"):
            check_settings(load_settings(config, [change]), None)


def test_without_budgets_it_is_the_groups_mean():
    reward, group = [1, 0, 1, 1, 0], [0, 0, 0, 0, 1]
    np.testing.assert_array_equal(Brpo()(reward, group), DrGrpo()(reward, group))


def test_groups_of_other_drivers_are_refused():
    with pytest.raises(DataError, match=r"is no summary of one; set rollout.driver.name=anytime"):
        on(Brpo(), [1, 0], *flat([[3, 4]]))
    whole = roll_out(anytime(unit="trace"), [[1] * 20, [2] * 20])
    with pytest.raises(DataError, match="8 leaves and one reward.*unit=summary"):
        on(Brpo(), [1, 0], whole)
    group = roll_out(anytime(), [[1] * 20, [2] * 20])
    broken = group.replace(rollouts=group.rollouts[:-1])
    with pytest.raises(DataError, match="not budgets x summaries for each thought"):
        on(Brpo(), [0] * 15, broken)
    assert assign(Brpo(), [], [group.replace(rollouts=())])[1] == ()


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="credit.recency is 0"):
        Brpo(recency=0)
    with pytest.raises(ConfigError, match="nothing is trained"):
        Brpo(mode="notrain", summaries="none")
