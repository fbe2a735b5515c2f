"""The Delethink driver: chunks see the prompt, the head and the tail; every token is decoded and trained once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer
from trees import prompt_group, random_script

from laconic.errors import ConfigError
from laconic.rollout.drivers import DRIVERS, DelethinkDriver, FlatDriver
from laconic.rollout.engines.fake import ScriptedEngine
from laconic.rollout.engines.transformers import TransformersEngine
from laconic.rollout.records import Kind, Stop
from laconic.rollout.scheduler import run_groups
from laconic.train.model_files import PACKAGED
from laconic.train.rows import flatten

PROMPT = [5, 5]


def roll_out(driver, script, prompt=PROMPT, **engine):
    (group,) = run_groups(driver, ScriptedEngine(script, **engine), [prompt_group(0, prompt)], seed=0, step=0)
    return group


def chunks(group, rollout):
    return [group.segments[group.leaves[leaf].segment] for leaf in rollout.leaves]


def carried(group, chunk):
    """What a chunk sees after the prompt."""
    return group.context_ids(chunk.parent)[len(group.segments[0]) :].tolist()


def test_published_budgets():
    assert DelethinkDriver().longest_trace == 24_576
    assert DelethinkDriver(max_chunks=23, max_completion=98_304).longest_trace == 98_304
    assert DRIVERS["delethink"] is DelethinkDriver and DelethinkDriver.flatten == "call"


def test_attention_of_a_full_trace_is_what_the_formulas_say():
    group = roll_out(DelethinkDriver(group_size=1), lambda context, request: [7] * 8192, [5], max_context=8193)
    parts = chunks(group, group.rollouts[0])
    assert [len(part) for part in parts] == [8192, 4096, 4096, 4096, 4096]
    assert group.trained_tokens(group.rollouts[0]) == 24_576
    assert [part.stop for part in parts] == [Stop.BUDGET] * 4 + [Stop.LENGTH]
    # pairs without the prompt: a token sees itself and what the engine read, less the one prompt token at each step
    decode = sum(part.cost.kv_read for part in parts)
    prefill = sum(n * (n + 1) // 2 for n in (len(carried(group, part)) for part in parts))
    assert (decode, prefill) == (134_230_016, 33_562_624)
    flat = 24_576 * 24_577 // 2
    assert flat == 302_002_176 and (decode + prefill) / flat == pytest.approx(0.5556, abs=5e-5)
    cached_head = DelethinkDriver().head // 16 * 16
    assert 4 * cached_head * (cached_head + 1) // 2 == 18_624


def test_the_carry_is_the_head_of_the_whole_trace_and_its_tail():
    text = iter([[11, 12, 13, 14, 15, 16, 17], [21, 22, 23, 24], [31, 32]])
    driver = DelethinkDriver(chunk=7, head=1, tail=2, max_chunks=4, group_size=1, max_completion=99)
    group = roll_out(driver, lambda context, request: next(text))
    first, second, third = chunks(group, group.rollouts[0])
    assert [carried(group, part) for part in (first, second, third)] == [[], [11, 16, 17], [11, 23, 24]]
    assert third.ids.tolist() == [31, 32, 0] and third.stop is Stop.EOS
    assert group.response_ids(group.leaves[-1]).tolist() == [11, 23, 24, 31, 32, 0]
    assert group.trained_tokens(group.rollouts[0]) == 7 + 4 + 3 and not group.truncated(group.leaves[-1])


def test_an_answer_that_straddles_two_chunks_is_read_whole():
    text = [ord(letter) for letter in "a.b.c.\\boxed{42}.d"]

    def script(context, request):
        told = 0 if request.position == 0 else 14
        return [*text[told:], 0]

    # the first chunk ends within the braces; what the verifier reads begins with the carry, which holds the rest
    group = roll_out(DelethinkDriver(group_size=1, chunk=14, head=0, tail=8, max_chunks=3, max_completion=30), script)
    first, last = chunks(group, group.rollouts[0])
    assert bytes(first.ids.tolist()) == b"a.b.c.\\boxed{4" and b"boxed" not in bytes(last.ids.tolist())
    (leaf,) = [group.leaves[group.rollouts[0].leaves[-1]]]
    assert b"\\boxed{42}" in bytes(group.response_ids(leaf).tolist())
    rows = flatten([group], [1.0], normalizer="row_mean", max_completion=30)
    assert sum(int(row.trained.sum()) for row in rows) == len(first) + len(last)


def test_a_tail_longer_than_a_chunk_reaches_back_into_the_chunks_before():
    text = iter([[1, 2, 3, 4, 5, 6], [7], [8], [9]])
    driver = DelethinkDriver(chunk=6, head=1, tail=4, max_chunks=4, group_size=1, max_completion=9)
    group = roll_out(driver, lambda context, request: next(text))
    contexts = [carried(group, part) for part in chunks(group, group.rollouts[0])]
    assert contexts == [[], [1, 3, 4, 5, 6], [1, 4, 5, 6, 7], [1, 5, 6, 7, 8]]


def test_no_head_and_the_smallest_tail():
    driver = DelethinkDriver(chunk=3, head=0, tail=1, max_chunks=3, group_size=1, max_completion=7)
    text = iter([[1, 2, 3], [4, 5], [6, 7]])
    group = roll_out(driver, lambda context, request: next(text))
    assert [carried(group, part) for part in chunks(group, group.rollouts[0])] == [[], [3], [5]]
    assert group.truncated(group.leaves[-1])


def test_a_trace_counts_once_however_many_rows_it_has():
    """Chunks of 4, 2, 2 and a trace of one chunk of 2, token loss 1: row terms 1, 0.5, 0.5 and 2 have the mean 1."""
    driver = DelethinkDriver(chunk=4, head=1, tail=1, max_chunks=3, group_size=2, max_completion=8)
    group = roll_out(driver, lambda context, request: [9] if request.noise.leaf == 3 else [1] * 4)
    assert [[len(part) for part in chunks(group, rollout)] for rollout in group.rollouts] == [[4, 2, 2], [2]]
    rows = flatten([group], [1.0, 1.0], normalizer="row_mean", max_completion=8)
    terms = [row.weight * int(np.isfinite(row.old_logp).sum()) for row in rows]
    assert [len(rows) * term for term in terms] == [1.0, 0.5, 0.5, 2.0] and sum(terms) == 1.0


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_one_chunk_is_flat_sampling(seed):
    chunked = DelethinkDriver(chunk=8, head=1, tail=3, max_chunks=1, group_size=3, max_completion=8)
    both = [roll_out(driver, random_script(seed)) for driver in (chunked, FlatDriver(3, 8))]
    for ours, flat in zip(both[0].segments, both[1].segments, strict=True):
        assert np.array_equal(ours.ids, flat.ids) and ours.stop is flat.stop
    assert both[0].leaves == both[1].leaves and both[0].rollouts == both[1].rollouts


@given(st.integers(0, 1000), st.integers(0, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_random_stops(seed, head, tail, room, most):
    chunk = head + tail + room
    driver = DelethinkDriver(chunk=chunk, head=head, tail=tail, max_chunks=most, group_size=3, max_completion=99)
    check(roll_out(driver, random_script(seed)), driver)


def check(group, driver):
    group.validate()
    assert len(group.rollouts) == driver.group_size
    for rollout in group.rollouts:
        parts, trace = chunks(group, rollout), np.empty(0, np.int32)
        for number, part in enumerate(parts):
            seen = trace.tolist()
            ends = seen[: driver.head] + seen[len(seen) - driver.tail :] if number else []
            assert carried(group, part) == ends and len(ends) + len(part) <= driver.longest_context
            trace = np.concatenate([trace, part.ids])
        assert [part.stop for part in parts[:-1]] == [Stop.BUDGET] * (len(parts) - 1)
        assert parts[-1].stop is (Stop.LENGTH if group.truncated(group.leaves[rollout.leaves[-1]]) else Stop.EOS)
        assert len(parts) == driver.max_chunks or parts[-1].stop is Stop.EOS
        assert group.trained_tokens(rollout) == len(trace) <= driver.longest_trace
    assert sum(map(group.trained_tokens, group.rollouts)) == group.cost.decoded
    rows = flatten([group], np.ones(len(group.rollouts)), normalizer="row_mean", max_completion=99)
    assert sum(np.isfinite(row.old_logp).sum() for row in rows) == group.cost.decoded
    assert sum(row.weight * np.isfinite(row.old_logp).sum() for row in rows) == pytest.approx(1)


def test_chunks_draw_from_noise_streams_of_their_own():
    seen = []

    def script(context, request):
        seen.append((request.noise.leaf, request.position))
        return [1] * 9

    roll_out(DelethinkDriver(chunk=4, head=1, tail=1, max_chunks=3, group_size=2, max_completion=8), script)
    assert sorted(leaf for leaf, _ in seen) == list(range(6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tail": 8100}, r"100 head \+ 8100 tail = 8200 tokens leaves 8192 - 8200 = -8 of each later chunk"),
        ({"tail": 8092}, r"8192 - 8192 = 0 of each later chunk.*8191 tokens together"),
        (
            {"max_completion": 640},
            r"8192 \+ \(5 - 1\) \* \(8192 - 4096\) = 24576 tokens but rollout.max_completion is 640",
        ),
        ({"tail": 0}, "rollout.driver.tail is 0 but must be at least 1"),
        ({"head": -1}, "rollout.driver.head is -1 but must be at least 0"),
        ({"group_size": 0}, "rollout.group_size is 0"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ConfigError, match=message):
        DelethinkDriver(**changes)


def test_the_tiny_thinker_thinks_in_chunks():
    folder = PACKAGED["tiny-thinker"]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    driver = DelethinkDriver(chunk=24, head=2, tail=10, max_chunks=4, group_size=4, max_completion=60)
    groups = [prompt_group(i, tokenizer.encode(text)) for i, text in enumerate(("3+4*2>", "7*6-5>"))]
    engine = TransformersEngine(model.eval(), [tokenizer.eos_token_id], max_live=16)
    done = run_groups(driver, engine, groups, seed=0, step=0)
    for group in done:
        check(group, driver)
    assert any(segment.kind is Kind.CONTEXT_COPY for group in done for segment in group.segments)
