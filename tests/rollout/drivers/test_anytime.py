"""The anytime driver: every budget's prefix is answered, the thought is decoded once, leaves know their budget."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer
from trees import prompt_group, random_script

from laconic.errors import ConfigError
from laconic.rollout.drivers import AnytimeDriver
from laconic.rollout.engines.fake import ScriptedEngine
from laconic.rollout.engines.transformers import TransformersEngine
from laconic.rollout.records import Kind, Stop
from laconic.rollout.scheduler import run_groups
from laconic.train.model_files import PACKAGED

END, CUT, HEAD = 8, 7, 6
"""Fake tokens: end of thought, what is forced before it, answer header."""


def driver(**changes):
    fields = {"thinking_tokens": 8, "summaries": 2, "summary_tokens": 3, "group_size": 1, "max_completion": 20}
    return AnytimeDriver(**{**fields, "think_end": (END,), "cut": (CUT, END), "header": (HEAD,), **changes})


def roll_out(anytime, thought, answer=(9,)):
    def script(context, request):
        return thought if len(context) == 2 else answer

    (group,) = run_groups(anytime, ScriptedEngine(script), [prompt_group(0, [5, 5])], seed=0, step=0)
    return group


def contexts(group):
    return [group.context_ids(group.segments[leaf.segment].parent).tolist()[2:] for leaf in group.leaves]


def test_a_cut_thought_gets_the_forced_end_and_the_header_at_each_budget():
    group = roll_out(driver(), [1, 2, 3, 4] * 5)
    whole = [1, 2, 3, 4, 1, 2, 3, 4]
    assert contexts(group)[::2] == contexts(group)[1::2] == [[*whole[:c], CUT, END, HEAD] for c in (2, 4, 6, 8)]
    assert group.segments[1].stop is Stop.BUDGET and [s.kind for s in group.segments[2:4]] == [
        Kind.FORCED,
        Kind.SAMPLED,
    ]
    assert [driver().budget_of(leaf) for leaf in group.leaves[:4]] == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)]


def test_budgets_beyond_a_thought_fall_together_on_it_and_it_gets_the_header_alone():
    group = roll_out(driver(), [1, 2, 3, 4, END])
    assert contexts(group)[::2] == [
        [1, 2, CUT, END, HEAD],
        [1, 2, 3, 4, CUT, END, HEAD],
        *[[1, 2, 3, 4, END, HEAD]] * 2,
    ]
    assert driver().cuts(group, 1) == (2, 4, 5, 5) and len(group.leaves) == 8
    assert [group.trained_length(leaf) for leaf in group.leaves[::2]] == [4, 6, 7, 7]


def test_a_thought_shorter_than_the_first_budget_still_has_all_summaries():
    group = roll_out(driver(), [END])
    assert contexts(group) == [[END, HEAD]] * 8 and len({tuple(c) for c in contexts(group)}) == 1


def test_a_thought_that_ends_the_answer_gets_no_end_of_thought_so_that_it_cannot_count():
    group = roll_out(driver(), [1, 2, 3])  # the fake engine ends it with EOS, 0
    assert contexts(group)[-1] == [1, 2, 3, 0, HEAD]
    assert END not in group.response_ids(group.leaves[-1])


def test_a_thought_that_ends_at_the_largest_budget_ended_by_itself():
    assert contexts(roll_out(driver(), [1, 2, 3, 4, 1, 2, 3, END]))[-1] == [1, 2, 3, 4, 1, 2, 3, END, HEAD]


def test_four_budgets_of_four_summaries_decode_the_thought_and_the_summaries_and_nothing_twice():
    group = roll_out(driver(summaries=4), [1, 2, 3, 4] * 5)
    sampled = [segment for segment in group.segments if segment.kind is Kind.SAMPLED]
    assert group.cost.decoded == 8 + 16 * 2 == sum(len(segment) for segment in sampled)
    assert len(group.rollouts) == 1 and group.trained_tokens(group.rollouts[0]) == 40


def test_budgets_and_priors_have_the_published_values():
    group = prompt_group(0, [5])
    published = AnytimeDriver(thinking_tokens=8000, max_completion=10176)
    assert published.budgets_of(group) == (2000, 4000, 6000, 8000)
    assert published.prior_of(group).tolist() == [0.25] * 4
    for prior, want in (("linear", [0.1, 0.2, 0.3, 0.4]), ("base", [0, 0, 0, 1])):
        of_prior = AnytimeDriver(thinking_tokens=8000, max_completion=10176, prior=prior)
        np.testing.assert_allclose(of_prior.prior_of(group), want, rtol=1e-12)


def test_the_largest_budget_is_what_the_completion_cap_leaves():
    assert driver(thinking_tokens=0).largest == 20 - 3 - 3


def test_sampled_budgets_lie_in_their_intervals_and_depend_on_keys_only():
    anytime = driver(thinking_tokens=800, max_completion=900, placement="sampled")
    drawn = np.array([anytime.budgets_of(prompt_group(i, [5])) for i in range(300)])
    assert (drawn > [0, 200, 400, 600]).all() and (drawn <= [200, 400, 600, 800]).all()
    np.testing.assert_allclose(drawn.mean(0), [100.5, 300.5, 500.5, 700.5], atol=12)
    assert anytime.budgets_of(prompt_group(3, [5])) == tuple(drawn[3])
    assert driver(placement="sampled", seed=1).seed == 1 and len({tuple(row) for row in drawn}) > 290


def test_a_prompt_that_comes_back_in_a_later_step_gets_other_budgets():
    anytime = driver(thinking_tokens=800, max_completion=900, placement="sampled")

    def budgets(step):
        engine = ScriptedEngine(lambda context, request: [1, END])
        (group,) = run_groups(anytime, engine, [prompt_group(0, [5, 5])], seed=0, step=step)
        return anytime.budgets_of(group)

    assert len({budgets(step) for step in range(20)}) == 20 and budgets(7) == budgets(7)


def test_weights_make_the_mean_score_the_objective():
    group = roll_out(driver(prior="linear"), [1, 2, 3, 4] * 5)
    scores = np.array([0, 1, 1, 1, 0, 0, 1, 1])
    weight = np.array([leaf.weight for leaf in group.leaves])
    assert weight @ scores == pytest.approx(0.1 * 0.5 + 0.2 * 1 + 0.3 * 0 + 0.4 * 1)


def test_a_rollout_is_a_thought_or_each_summary():
    assert [r.leaves for r in roll_out(driver(), [1, END]).rollouts] == [tuple(range(8))]
    assert [r.leaves for r in roll_out(driver(unit="summary"), [1, END]).rollouts] == [(i,) for i in range(8)]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 3), st.sampled_from(["grid", "sampled"]))
def test_every_group_holds_all_summaries_at_the_right_prefix(seed, budgets, summaries, placement):
    anytime = driver(budgets=budgets, summaries=summaries, placement=placement, group_size=3)
    prompts = [prompt_group(i, [5, 4 + i]) for i in range(2)]
    few, many = (
        run_groups(anytime, ScriptedEngine(random_script(seed), max_live=live), prompts, seed=1, step=0)
        for live in (1, 64)
    )
    for group, other in zip(few, many, strict=True):
        slots = budgets * summaries
        assert len(group.leaves) == 3 * slots and sum(leaf.weight for leaf in group.leaves) == pytest.approx(1)
        for leaf, same in zip(group.leaves, other.leaves, strict=True):
            assert group.response_ids(leaf).tolist() == other.response_ids(same).tolist()
            trace, budget, _ = anytime.budget_of(leaf)
            path = group.path(leaf.segment)
            assert path[1][0].id == trace + 1 and path[1][1] == anytime.cuts(group, trace + 1)[budget]
        sampled = [segment for segment in group.segments if segment.kind is Kind.SAMPLED]
        assert sum(map(len, sampled)) == group.cost.decoded
        assert sum(group.trained_tokens(rollout) for rollout in group.rollouts) == group.cost.decoded


def test_what_cannot_work_is_refused_with_the_arithmetic():
    with pytest.raises(ConfigError, match=r"8 thinking \+ 3 forced \+ 3 answer = 14 tokens but .* is 13"):
        driver(max_completion=13)
    with pytest.raises(ConfigError, match="budgets is 9 but the largest budget is 8"):
        driver(budgets=9)
    with pytest.raises(ConfigError, match=r"rollout.driver.summaries is 0"):
        driver(summaries=0)
    with pytest.raises(ConfigError, match="with_tokenizer"):
        AnytimeDriver().start(prompt_group(0, [5]))
    tokenizer = AutoTokenizer.from_pretrained(PACKAGED["tiny-thinker"])
    for changes, match in (
        ({"think_end_text": "12"}, "2 tokens of this tokenizer"),
        ({"cut_text": ""}, "must end with"),
        ({"cut_text": "</think>", "header_text": "x"}, "cannot write"),
    ):
        with pytest.raises(ConfigError, match=match):
            AnytimeDriver(**{"cut_text": "</think>", "header_text": "", **changes}).with_tokenizer(tokenizer)


def test_the_tiny_thinker_answers_from_every_budget_on_the_embedded_engine():
    tokenizer = AutoTokenizer.from_pretrained(PACKAGED["tiny-thinker"])
    model = AutoModelForCausalLM.from_pretrained(PACKAGED["tiny-thinker"], dtype="float32").eval()
    anytime = AnytimeDriver(
        thinking_tokens=160, summary_tokens=4, cut_text="</think>", header_text="", group_size=4, max_completion=256
    ).with_tokenizer(tokenizer)
    engine = TransformersEngine(model, [tokenizer.eos_token_id], allowed_vocab=len(tokenizer))
    problems = {"3+4*2=": 4, "1+5=": 6, "9-2+3*4=": 0, "2*3-4+5*7=": 9}
    prompts = [prompt_group(i, tokenizer.encode(text)) for i, text in enumerate(problems)]
    right = []
    for group, gold in zip(run_groups(anytime, engine, prompts, seed=3, step=0), problems.values(), strict=True):
        responses = [tokenizer.decode(group.response_ids(leaf)) for leaf in group.leaves]
        assert len(responses) == 4 * 16 and all(text.count("</think>") == 1 for text in responses)
        assert group.cost.decoded == sum(group.trained_tokens(rollout) for rollout in group.rollouts)
        right.append([text.endswith(f"</think>{gold}<eos>") for text in responses])
    by_budget = np.reshape(right, (4, 4, 4, 4)).mean((0, 1, 3))
    assert by_budget[0] < by_budget[-1] and by_budget[-1] > 0.7
