"""The fork/join driver: threads side by side, joins as copies, every token in one row, lengths as published."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer
from trees import prompt_group, random_script

from laconic.errors import ConfigError
from laconic.rollout.drivers import ForkJoinDriver
from laconic.rollout.drivers.threads import listed_numbers, parallel_reward, thread_lengths
from laconic.rollout.engines.fake import ScriptedEngine
from laconic.rollout.engines.transformers import TransformersEngine
from laconic.rollout.records import Kind, Stop
from laconic.rollout.savings import critical_tokens, saving
from laconic.rollout.scheduler import run_groups
from laconic.train.model_files import PACKAGED

LIST, ITEM, FORK, THREAD, END, NEWLINE, COLON, RESULT = 30, 31, 32, 33, 34, 35, 36, 37
DIGITS = tuple(range(40, 50))
TEXTS = ((COLON, ":"), (NEWLINE, "\n"), *((token, str(d)) for d, token in enumerate(DIGITS)))
CLOSE = (38, 39)


def driver(**changes):
    fields = {
        "list_open": LIST,
        "item": ITEM,
        "fork": FORK,
        "thread_end": (END,),
        "header_parts": ((NEWLINE, THREAD), (COLON,)),
        "digits": DIGITS,
        "texts": TEXTS,
        "joined_ids": (NEWLINE,),
        "close_thread_ids": (NEWLINE, END),
        "close_ids": (CLOSE[1],),
        "between": 1,
        "group_size": 1,
        "max_completion": 60,
    }
    return ForkJoinDriver(**{**fields, **changes})


def outline(*numbers):
    return [LIST, *(token for n in numbers for token in (ITEM, DIGITS[n], COLON, 6)), FORK]


def header(number):
    return [NEWLINE, THREAD, DIGITS[number], COLON]


def roll_out(fork_join, table):
    """``table``: what was written after the prompt so far -> what comes next."""

    def script(context, request):
        for end, text in table:
            if context[-len(end) :] == tuple(end):
                return text
        raise AssertionError(context)

    (group,) = run_groups(fork_join, ScriptedEngine(script), [prompt_group(0, [5, 5])], seed=0, step=0)
    return group


TWO = [([5, 5], [1, *outline(1, 2)]), (header(1), [2, 2, END]), (header(2), [3, END]), ([NEWLINE], [4])]


def answer(group):
    return group.response_ids(group.leaves[group.rollouts[0].leaves[-1]]).tolist()


def test_threads_are_joined_in_order_with_the_line_break_before_the_first_only():
    group = roll_out(driver(), TWO)
    joined = [*header(1), 2, 2, END, *header(2)[1:], 3, END, NEWLINE]
    assert answer(group) == [1, *outline(1, 2), *joined, 4, 0]
    kinds = [segment.kind for segment in group.segments]
    thread = [Kind.FORCED, Kind.SAMPLED]
    assert kinds == [Kind.PROMPT, Kind.SAMPLED, *thread, *thread, Kind.CONTEXT_COPY, Kind.FORCED, Kind.SAMPLED]
    assert group.segments[3].parent == 2 and group.segments[2].parent == group.segments[4].parent == 1


def test_each_token_is_in_one_row_and_the_answer_is_the_last_leaf():
    group = roll_out(driver(), TWO)
    assert [group.leaves[leaf].segment for leaf in group.rollouts[0].leaves] == [3, 5, 8]
    assert group.trained_tokens(group.rollouts[0]) == group.cost.decoded == 11 + 3 + 2 + 2
    assert critical_tokens(group) == 11 + 3 + 2


def test_the_join_prefills_all_threads_but_the_first_again():
    group = roll_out(driver(), TWO)
    first, copied = 4 + 3, len(group.segments[6])
    assert copied - first == len(header(2)[1:]) + 2


def test_numbers_are_read_once_each_and_a_list_without_any_goes_on():
    texts = dict(TEXTS)
    assert listed_numbers(outline(2, 1, 2), ITEM, texts) == [2, 1]
    assert listed_numbers([ITEM, NEWLINE, DIGITS[1], DIGITS[2], COLON], ITEM, texts) == [12]
    assert listed_numbers([ITEM, 6, DIGITS[1], COLON, ITEM, DIGITS[3], 6, ITEM], ITEM, texts) == []
    group = roll_out(driver(), [([5, 5], [1, FORK]), ([FORK], [4])])
    assert answer(group) == [1, FORK, 4, 0] and len(group.rollouts[0].leaves) == 1


def test_only_the_last_list_counts():
    group = roll_out(driver(), [([5, 5], [*outline(3)[:-1], *outline(1)]), (header(1), [END]), ([NEWLINE], [4])])
    assert [segment.ids.tolist() for segment in group.segments[2:4]] == [header(1), [END]]


def test_a_thread_that_does_not_close_its_tag_ends_the_answer_with_forced_closings():
    group = roll_out(driver(), [*TWO[:2], (header(2), [3])])
    assert answer(group)[-6:] == [DIGITS[2], COLON, 3, NEWLINE, END, CLOSE[1]]
    last = group.segments[group.leaves[-1].segment]
    assert last.kind is Kind.FORCED and last.stop is Stop.EOS and not group.truncated(group.leaves[-1])
    group = roll_out(driver(thread_tokens=4), [*TWO[:2], (header(2), [3] * 9)])
    assert group.truncated(group.leaves[-1]) and group.segments[5].stop is Stop.BUDGET


def test_a_join_without_room_ends_the_answer():
    group = roll_out(driver(max_completion=11 + 4 + 3), TWO)
    assert group.truncated(group.leaves[-1]) and answer(group)[-2:] == [END, CLOSE[1]]
    group = roll_out(driver(max_completion=11 + 4), TWO)  # not even a thread
    assert answer(group) == [1, *outline(1, 2)]


def test_after_the_last_round_the_answer_ends_or_goes_on_without_forks():
    again = [*TWO[:3], ([NEWLINE], [4, *outline(1), 6])]
    assert answer(roll_out(driver(rounds=1), again))[-1] == CLOSE[1]
    assert answer(roll_out(driver(rounds=1, afterwards="sequential"), again))[-2:] == [6, 0]


def test_calls_see_their_item_only_and_results_take_the_place_of_the_list():
    calls = driver(format="calls", result=RESULT, child_ids=(9,), no_result_ids=(8, 8))
    table = [
        ([5, 5], [1, LIST, ITEM, 2, 2, ITEM, 3, FORK]),
        ([2, 2, 9], [4, RESULT, 7]),
        ([3, 9], [4, 4]),
        ([NEWLINE], [6]),
    ]
    group = roll_out(calls, table)
    assert answer(group) == [1, 7, 8, 8, NEWLINE, 6, 0]
    children = [s for s in group.segments if s.kind is Kind.SAMPLED][1:3]
    assert [group.context_ids(child.id).tolist() for child in children] == [[2, 2, 9, 4, RESULT, 7, 0], [3, 9, 4, 4, 0]]
    assert group.trained_tokens(group.rollouts[0]) == group.cost.decoded


def test_lengths_and_reward_have_the_published_values():
    block, thread = (20, 21), (THREAD, END)
    ids = [1] * 10 + [20] + [2] * 6 + [THREAD, *[3] * 20, END] + [THREAD, *[3] * 30, END] + [21] + [1] * 5
    total, longest = thread_lengths(ids, block=block, thread=thread)
    assert (total, longest) == (77, 57) and 1 - longest / total == pytest.approx(0.2597, abs=5e-5)
    assert parallel_reward(True, total, longest) == pytest.approx(1.1) and parallel_reward(False, total, longest) == 0
    assert parallel_reward(True, 100, 90) == pytest.approx(1.05)
    assert thread_lengths([20, THREAD, 3, 20, THREAD, END, 21], block=block, thread=thread) == (7, 7)  # nested: text
    assert thread_lengths([20, THREAD, 3, 3, END, THREAD, 3], block=block, thread=thread) == (7, 6)  # not closed
    assert thread_lengths([THREAD, 3, END], block=block, thread=thread) == (3, 3)  # outside of a block


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["tags", "calls"]),
    st.booleans(),
    st.integers(1, 3),
    st.sampled_from(["stop", "sequential"]),
)
def test_every_sampled_token_is_trained_once_whatever_the_engine_does(seed, format, keep, rounds, afterwards):
    """Tokens 1 to 9 are drawn at random: 1 opens a list, 2 an item, 3 forks, 4 ends a thread, 5 opens a result."""
    fork_join = driver(
        **{"list_open": 1, "item": 2, "fork": 3, "thread_end": (4,), "result": 5, "threads": 2 * (format == "tags")},
        format=format,
        keep_markers=keep,
        rounds=rounds,
        afterwards=afterwards,
        group_size=3,
        max_completion=40,
    )
    prompts = [prompt_group(i, [5, 4 + i]) for i in range(3)]
    few, many = (
        run_groups(fork_join, ScriptedEngine(random_script(seed), max_live=live), prompts, seed=1, step=0)
        for live in (1, 64)
    )
    for group, other in zip(few, many, strict=True):
        assert len(group.rollouts) == 3
        assert sum(group.trained_tokens(rollout) for rollout in group.rollouts) == group.cost.decoded
        above = [
            {s.id for leaf in r.leaves for s, _ in group.path(group.leaves[leaf].segment)[1:]} for r in group.rollouts
        ]
        assert not above[0] & above[1] and not above[1] & above[2]
        for one, same in zip(group.rollouts, other.rollouts, strict=True):
            ends = group.leaves[one.leaves[-1]], other.leaves[same.leaves[-1]]
            assert group.response_ids(ends[0]).tolist() == other.response_ids(ends[1]).tolist()
            assert len(one.leaves) == len(same.leaves)


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="threads is 20 but must be 0 or up to rollout.driver.max_threads, 16"):
        ForkJoinDriver(threads=20)
    with pytest.raises(ConfigError, match="rollout.driver.rounds is 0"):
        ForkJoinDriver(rounds=0)
    with pytest.raises(ConfigError, match="with_tokenizer"):
        ForkJoinDriver().start(prompt_group(0, [5]))
    with pytest.raises(ConfigError, match="fork_text is '</Outlines>'"):
        ForkJoinDriver().with_tokenizer(AutoTokenizer.from_pretrained(PACKAGED["tiny-thinker"]))


def test_the_tiny_thinker_checks_its_work_in_parallel_on_the_embedded_engine():
    tokenizer = AutoTokenizer.from_pretrained(PACKAGED["tiny-thinker"])
    model = AutoModelForCausalLM.from_pretrained(PACKAGED["tiny-thinker"], dtype="float32").eval()
    fork_join = ForkJoinDriver(
        threads=2,
        rounds=1,
        afterwards="sequential",
        keep_markers=False,
        fork_text=";",
        header_text=";",
        thread_end_text=(";", "</think>"),
        joined_text="",
        close_thread_text="",
        close_text="",
        group_size=8,
    ).with_tokenizer(tokenizer)
    engine = TransformersEngine(model, [tokenizer.eos_token_id], allowed_vocab=len(tokenizer))
    prompts = [prompt_group(i, tokenizer.encode(text)) for i, text in enumerate(["3+4*2=", "1+5=", "9-2+3*4="])]
    groups = run_groups(fork_join, engine, prompts, seed=3, step=0)
    right = []
    for group, gold in zip(groups, "460", strict=True):
        answers = [tokenizer.decode(group.response_ids(group.leaves[r.leaves[-1]])) for r in group.rollouts]
        right += [text.endswith(f"</think>{gold}<eos>") for text in answers]
        assert any(len(rollout.leaves) == 4 for rollout in group.rollouts)
        assert sum(group.trained_tokens(rollout) for rollout in group.rollouts) == group.cost.decoded
        scored = [s.logp for s in group.segments if s.kind is Kind.SAMPLED]
        assert np.isfinite(np.concatenate(scored)).all()
    assert np.mean(right) > 0.7
    decoded = sum(group.cost.decoded for group in groups)
    assert saving(sum(critical_tokens(group) for group in groups), decoded) > 0
