"""The segment tree: level widths, ends of paths, fallback, weights, and the invariants over random trees."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import prompt_group

from laconic.errors import ConfigError
from laconic.rollout import savings
from laconic.rollout.drivers.tree_fallback import Ending
from laconic.rollout.drivers.treepo import TreePODriver
from laconic.rollout.engines.fake import ScriptedEngine
from laconic.rollout.records import Kind, Stop
from laconic.rollout.scheduler import run_groups

LETTERS = " abcdefghijklmnopqrstuvwxyz\\{}0123456789."


def decode(ids):
    return "".join(LETTERS[token] if token else "" for token in ids)


def encode(text):
    return [LETTERS.index(character) for character in text]


def driver(**changes):
    fields = {"width": 2, "depth": 4, "segment_tokens": 4, "group_size": 8, "max_completion": 16}
    return TreePODriver(**{**fields, "answer": "eos", "repetition": "off", "decode": decode, **changes})


def roll_out(tree, script, prompt=(5, 5), **engine):
    scripted = script if callable(script) else lambda context, request: script
    (group,) = run_groups(tree, ScriptedEngine(scripted, **engine), [prompt_group(0, list(prompt))], seed=0, step=0)
    return group


def level_sizes(group):
    """Segments at each level of a tree without fallback."""
    depths = [len(group.path(segment.id)) - 1 for segment in group.segments[1:]]
    return [depths.count(depth) for depth in range(1, max(depths) + 1)]


FOREVER = [3] * 10_000


@pytest.mark.parametrize(
    ("changes", "widths", "saving"),
    [
        ({"depth": 3, "max_completion": 12, "group_size": 8}, [2, 4, 8], 0.41667),
        ({"depth": 14, "max_completion": 56, "group_size": 16}, [2, 4, 8, *[16] * 11], 0.15179),
        ({"depth": 14, "max_completion": 56, "group_size": 16, "first_width": (8, 8)}, [8, *[16] * 13], 0.03571),
    ],
)
def test_widths_and_savings_of_trees_in_which_nothing_ends_early(changes, widths, saving):
    group = roll_out(driver(**changes), FOREVER)
    assert level_sizes(group) == widths and group.cost.decoded == 4 * sum(widths)
    assert savings.saving(group.cost.decoded, sum(savings.answer_tokens(group))) == pytest.approx(saving, abs=5e-6)
    assert all(group.truncated(leaf) for leaf in group.leaves)
    assert [leaf.weight for leaf in group.leaves] == pytest.approx([1 / len(group.leaves)] * len(group.leaves))


def test_the_costs_of_a_tree_of_long_segments():
    tree = driver(depth=3, segment_tokens=512, max_completion=1536)
    group = roll_out(tree, FOREVER, prompt=[5] * 100, max_context=2000)
    assert sum(savings.answer_tokens(group)) == 12288 and group.cost.decoded == 7168 and group.cost.kv_read == 7_791_104
    flat = 8 * (1536 * 100 + 1536 * 1535 // 2)
    assert flat == 10_659_840
    # a block cache of 16 computes the last token again and what it shares a block with
    contexts = [len(group.context_ids(s.parent)) for s in group.segments[1:] if s.parent]
    assert [(tokens - 1) % 16 + 1 for tokens in contexts] == [4] * 12
    rows = sum(len(group.context_ids(leaf.segment)) for leaf in group.leaves)
    assert rows == 13_088 and 100 + group.cost.decoded == 7268


def test_the_width_of_a_path_that_ended_goes_to_the_live_ones():
    def script(context, request):
        return [] if request.noise.leaf == 1 else FOREVER  # the first path ends at once

    group = roll_out(driver(group_size=8), script)
    # live 1, ended 1 now: 2 * 1 + 2 * 1 branches; then 2 * 4, but 8 - 1 answers are left
    assert level_sizes(group) == [2, 4, 7, 7] and len(group.leaves) == 8
    assert [leaf.weight for leaf in group.leaves] == pytest.approx(
        [1 / 2, *[1 / 8] * 1, *[1 / 8] * 1, *[1 / 8] * 1, *[1 / 32] * 4]
    )


def test_a_group_of_one_is_flat_decoding_in_chunks():
    group = roll_out(driver(group_size=1), FOREVER)
    assert level_sizes(group) == [1, 1, 1, 1] and group.cost.decoded == 16
    assert [s.stop for s in group.segments[1:]] == [Stop.BUDGET] * 3 + [Stop.LENGTH]


def test_published_but_dead_settings_work_behind_their_keys():
    trees = [roll_out(driver(first_width=(3, 6), seed=seed, fallback="no_fallback"), []) for seed in range(60)]
    assert {len(group.leaves) for group in trees} == {3, 4, 5, 6}
    assert len(roll_out(driver(first_width=(1, 2), fallback="no_fallback"), []).leaves) == 2  # not above width: off
    looping = encode("a" * 60) + [0]
    long = {"depth": 1, "segment_tokens": 100, "max_completion": 100, "first_width": (8, 8)}
    assert roll_out(driver(**long, repetition="first"), looping).segments[1].stop is Stop.REPETITION
    assert roll_out(driver(**long, repetition="last"), looping).segments[1].stop is Stop.EOS


def test_random_width_and_tokens_of_a_level():
    def sizes(seed):
        return tuple(level_sizes(roll_out(driver(random_width=(1, 3), seed=seed, fallback="no_fallback"), FOREVER)))

    drawn = [sizes(seed) for seed in range(30)]
    assert {size[0] for size in drawn} == {1, 2, 3} and len(set(drawn)) > 5 and sizes(3) == drawn[3]
    assert level_sizes(roll_out(driver(level_tokens=12, fallback="no_fallback"), FOREVER)) == [3, 3, 3, 3]


def test_a_budget_in_tokens_makes_groups_smaller():
    sizes = {budget: len(roll_out(driver(token_budget=budget), FOREVER).leaves) for budget in (16, 48, 10**4)}
    # the first level: 48 // (4 live + 4 next) = 6 answers; live paths go on though the estimate falls
    assert sizes == {16: 2, 48: 4, 10**4: 8}
    assert len(roll_out(driver(token_budget=16, least_answers=5), FOREVER).leaves) >= 4


def test_a_looping_path_is_stopped_also_when_the_loop_spans_segments():
    tree = driver(depth=10, segment_tokens=20, max_completion=200, repetition="last", group_size=2)
    group = roll_out(tree, encode("a") * 1000)
    # 39 equal letters are 8 windows of 32; one segment has only 20
    assert [s.stop for s in group.segments[1:]] == [Stop.BUDGET] * 2 + [Stop.REPETITION] * 2


def test_an_answer_that_straddles_two_segments_is_found():
    text = encode("ok.\\boxed{42}.and.on.and.on.and.on.and.on")

    def script(context, request):
        return [*text[len(context) - 2 :], 0]

    changes = {"depth": 10, "max_completion": 40, "group_size": 2}
    group = roll_out(driver(**changes, answer="boxed_as_eos"), script)
    assert [decode(group.response_ids(leaf)) for leaf in group.leaves] == ["ok.\\boxed{42}.an"] * 2
    assert {group.segments[leaf.segment].stop for leaf in group.leaves} == {Stop.STOP_TOKEN}
    through = roll_out(driver(**changes, answer="boxed_and_eos_first"), script)
    assert [len(through.response_ids(leaf)) for leaf in through.leaves] == [40] * 2
    labelled = driver(**changes, answer="boxed_and_eos_first", fallback_from="boxed_ge_window")
    ended = roll_out(labelled, lambda context, request: [*text[len(context) - 2 : 15], 0])
    assert labelled.ending(ended, ended.segments[ended.leaves[0].segment]) is Ending.ANSWERED


def test_fallback_cuts_an_ended_answer_back_and_keeps_it():
    whole = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    splits = set()
    for seed in range(6):  # two or three answers from the prompt, and the rest by fallback
        tree = driver(group_size=3, width=1, first_width=(2, 3), seed=seed, fallback_windows=1)
        group = roll_out(tree, lambda context, request: whole[len(context) - 2 :])
        assert [group.response_ids(leaf).tolist() for leaf in group.leaves] == [whole] * 3
        parents = [segment.parent for segment in group.segments[1:] if segment.parent]
        again = [parent for parent in parents if parents.count(parent) > 1]
        # the cut goes back one window of 4 out of 3, so 8 tokens are kept
        assert len(again) in (0, 2) and group.cost.decoded == 30 - (8 if again else 0)
        assert [leaf.weight for leaf in group.leaves] == pytest.approx([1 / 2, 1 / 2, 0] if again else [1 / 3] * 3)
        splits.add(len(again))
    assert splits == {0, 2}


def test_early_answers_are_started_again_from_the_prompt_and_weigh_nothing():
    group = roll_out(driver(group_size=8), [])  # every call ends at once
    assert len(group.leaves) == 8 and all(s.parent == 0 for s in group.segments[1:])
    assert [leaf.weight for leaf in group.leaves] == [0.5, 0.5, 0, 0, 0, 0, 0, 0]
    assert [group.response_ids(leaf).tolist() for leaf in group.leaves] == [[0]] * 8
    assert len(roll_out(driver(group_size=8, fallback="no_fallback"), []).leaves) == 2


def test_from_start_cuts_at_length_zero_and_loses_nothing():
    def script(context, request):
        return [1, 2, 3, 4, 5][len(context) - 2 :]

    group = roll_out(driver(group_size=6, fallback="from_start"), script)
    # 2 paths branch to 4; then two trees more from the prompt
    assert [group.response_ids(leaf).tolist() for leaf in group.leaves] == [[1, 2, 3, 4, 5, 0]] * 6
    assert sum(group.trained_length(leaf) for leaf in group.leaves) == 36
    assert all(s.parent_off in (2, 4) for s in group.segments[1:])


def test_a_cut_that_leaves_no_level_moves_back_to_the_last_one():
    tree = driver(depth=3, max_completion=12, group_size=8, fallback="min_logprob_token")

    def script(context, request):
        return [] if len(context) - 2 >= 11 and request.noise.leaf % 2 else FOREVER

    group = roll_out(tree, script)
    starts = [
        len(group.context_ids(s.parent)[2:]) if s.parent_off == len(group.segments[s.parent]) else None
        for s in group.segments[1:]
    ]
    assert max(start for start in starts if start is not None) <= 8 and len(group.leaves) == 8


def test_short_answers_are_dropped_but_paid_for():
    def script(context, request):
        return [] if request.noise.leaf % 3 == 1 else [1, 2, 3, 4, 5]

    group = roll_out(driver(min_answer=2), script)
    assert len(group.leaves) == 8 and min(group.trained_length(leaf) for leaf in group.leaves) >= 2
    below = {segment.id for leaf in group.leaves for segment, _ in group.path(leaf.segment)}
    dropped = [segment for segment in group.segments[1:] if segment.id not in below]
    assert dropped and group.cost.decoded == sum(len(s) for s in group.segments[1:])
    assert sum(leaf.weight for leaf in group.leaves) == pytest.approx(1)
    # a policy that writes nothing else: no endless fallback, and the group keeps what it has
    group = roll_out(driver(min_answer=2), [])
    assert [group.trained_length(leaf) for leaf in group.leaves] == [1] * 8


def test_an_aborted_call_ends_the_growth_of_its_group():
    class Aborting(ScriptedEngine):
        def step(self):
            if self.steps == 4:
                self.steps += 1
                return self.abort([3])
            return super().step()

    (group,) = run_groups(
        driver(), Aborting(lambda context, request: FOREVER), [prompt_group(0, [5, 5])], seed=0, step=0
    )
    assert [s.stop for s in group.segments[3:]].count(Stop.ABORTED) == 1 and len(group.segments) == 7
    assert group.leaves == () and group.rollouts == ()


def test_weighted_leaves_estimate_the_value_without_bias_and_plain_means_do_not():
    def script(context, request):
        rng = random.Random(f"{context}/{request.noise.group}/{request.noise.leaf}")
        easy = len(context) == 2 and rng.random() < 0.5
        answer = 2 if rng.random() < (0.9 if easy else 0.3) else 1
        return [answer] if easy else [3, 3, 3, 3, answer][len(context) - 2 :]

    tree = driver(group_size=6, depth=2, max_completion=8, width=3)
    prompts = [prompt_group(index, [5, 5]) for index in range(800)]
    right = []
    for group in run_groups(tree, ScriptedEngine(script), prompts, seed=0, step=0):
        score = np.array([float(group.response_ids(leaf)[-2] == 2) for leaf in group.leaves])
        right.append((score.mean(), score @ [leaf.weight for leaf in group.leaves]))
    plain, weighted = np.mean(right, 0)
    three_errors = 3 * np.std(right, 0)[1] / np.sqrt(len(prompts))
    assert abs(weighted - 0.6) < three_errors < 0.05  # a half ends early, and .9 of them right; of the others, .3
    assert plain < 0.5


class Recording(ScriptedEngine):
    """Keeps what it was sent."""

    def __init__(self, *args, **fields):
        super().__init__(*args, **fields)
        self.sent = []

    def submit(self, requests):
        self.sent += [(request.noise.group, tuple(request.context.tolist()), request.position) for request in requests]
        super().submit(requests)


FALLBACKS = st.sampled_from(["random", "min_logprob_token", "block", "inverse_block", "from_start", "no_fallback"])
PICKS = st.sampled_from(
    ["soft_boxed_and_eos", "boxed_ge_window", "finished_first", "finished_first_strict", "random_all", "longer_first"]
)
DIVERGENCES = st.sampled_from(["fixed_avg", "logprob_weighted_div", "node_logprob_weighted_div"])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    fallback=FALLBACKS,
    fallback_from=PICKS,
    divergence=DIVERGENCES,
    first=st.sampled_from([(0, 0), (1, 4), (3, 9)]),
    draws=st.sampled_from([(0, 0), (1, 3), (2, 2)]),
    window=st.integers(0, 5),
    budget=st.sampled_from([0, 0, 30, 90]),
    least=st.sampled_from([0, 0, 3]),
    answer=st.sampled_from(["eos", "boxed_as_eos", "boxed_and_eos_first"]),
)
def test_the_invariants_hold_for_random_trees_and_ends(
    seed, fallback, fallback_from, divergence, first, draws, window, budget, least, answer
):
    tree = driver(
        seed=seed,
        fallback=fallback,
        fallback_from=fallback_from,
        divergence=divergence,
        first_width=first,
        random_width=draws,
        fallback_window=window,
        fallback_block=3,
        token_budget=budget,
        min_answer=least,
        answer=answer,
        repetition="last",
    )

    def script(context, request):
        rng = random.Random(f"{seed}/{context}/{request.noise.leaf}")
        if rng.random() < 0.2:
            return encode("\\boxed{7}")
        return [rng.randint(1, 9) for _ in range(rng.choice([0, 1, 3, 8, 20]))]

    prompts = [prompt_group(index, [5, 4 + index]) for index in range(3)]
    engines = [Recording(script, max_live=live) for live in (2, 64)]
    runs = [run_groups(tree, engine, prompts, seed=1, step=0) for engine in engines]
    for one, other in zip(*runs, strict=True):  # the tree does not depend on what the engine finishes first
        assert [s.ids.tolist() for s in one.segments] == [s.ids.tolist() for s in other.segments]
        assert [leaf.weight for leaf in one.leaves] == [leaf.weight for leaf in other.leaves]
        check(one, tree)
    sent = sorted(engines[1].sent)
    asked = [(g, s) for g in runs[1] for s in g.segments[1:]]
    context = [(g.id, tuple(g.context_ids(s.id)[: -len(s)].tolist())) for g, s in asked]
    assert sorted((group, ids, len(ids) - 2) for group, ids in context) == sent


def check(group, tree):
    group.validate()
    sampled = [segment for segment in group.segments if segment.kind is Kind.SAMPLED]
    assert group.cost.decoded == sum(map(len, sampled)) and {s.policy_version for s in sampled} == {0}
    assert len(group.rollouts) == len(group.leaves) >= 1
    assert len(group.leaves) <= tree.group_size or tree.min_answer
    if tree.fallback != "no_fallback" and not tree.token_budget and not tree.min_answer:
        assert len(group.leaves) == tree.group_size
    assert sum(leaf.weight for leaf in group.leaves) == pytest.approx(1)
    ends = [leaf.segment for leaf in group.leaves]
    assert len(set(ends)) == len(ends)
    for leaf in group.leaves:
        response = group.response_ids(leaf).tolist()
        assert 1 <= len(response) <= tree.max_completion
        assert 0 not in response[:-1] and len(response) == group.trained_length(leaf)
        assert group.segments[leaf.segment].stop in (Stop.EOS, Stop.LENGTH, Stop.REPETITION, Stop.STOP_TOKEN)
        assert len(response) >= tree.min_answer or all(
            group.trained_length(other) < tree.min_answer for other in group.leaves
        )
    above = {segment.id for leaf in group.leaves for segment, _ in group.path(leaf.segment)}
    discarded = sum(len(segment) for segment in sampled if segment.id not in above)
    assert sum(len(group.segments[index]) for index in above - {0}) == group.cost.decoded - discarded


def test_what_cannot_work_is_refused_with_the_arithmetic():
    for changes, match in (
        ({"depth": 5}, r"5 levels of 4 tokens = 20 tokens, but rollout.max_completion is 16; lower .* to 4, .* to 3"),
        (
            {"group_size": 64},
            r"64 answers take widths 2, 4, 8, 16, 32, 64: 6 levels x 4 tokens = 24 tokens, .*depth is 4",
        ),
        ({"width": 1}, "rollout.driver.width is 1: a tree has 1 answers of rollout.group_size 8"),
        ({"width": 0}, r"rollout.driver.width is 0 but must be at least 1"),
        ({"group_size": 0}, r"rollout.group_size is 0"),
        ({"first_width": (5, 2)}, r"first_width is \[5, 2\]"),
        ({"random_width": (0, 2)}, r"random_width is \[0, 2\]"),
        ({"token_budget": 3}, "token_budget is 3 but one segment has 4"),
        ({"min_answer": 16}, "min_answer is 16"),
        ({"least_answers": 9}, "least_answers is 9 but rollout.group_size is 8"),
        ({"divergence_temperature": 0.0}, "divergence_temperature is 0.0"),
        ({"segment_tokens": 17, "depth": 1, "group_size": 2}, "1 levels of 17 tokens"),
    ):
        with pytest.raises(ConfigError, match=match):
            driver(**changes)
    with pytest.raises(ConfigError, match="with_tokenizer"):
        TreePODriver().start(prompt_group(0, [5]))
    assert TreePODriver().segment == 107 and TreePODriver(max_completion=7168, depth=14).segment == 512
