"""What sequences leave for those that continue them: found, bounded, never stale, and nothing computed twice."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import MODELS, REAL, make, other_weights, prompts, request, run, scored
from trees import RandomTree, prompt_group

from laconic.errors import ConfigError
from laconic.rollout.drivers.delethink import DelethinkDriver
from laconic.rollout.drivers.flat import FlatDriver
from laconic.rollout.engines.prefixes import PrefixCache
from laconic.rollout.engines.protocol import KeepsPrefixes, Sampling
from laconic.rollout.engines.transformers import TransformersEngine
from laconic.rollout.records import Kind
from laconic.rollout.scheduler import run_groups


def kv_of(ids):
    """KV that tells every token's whole past, for two layers of unlike shape."""
    past = np.asarray([hash(tuple(ids[: i + 1])) % 9973 for i in range(len(ids))], np.float32)
    keys = torch.from_numpy(past)[None, :, None].expand(2, -1, 3)
    return [(keys, -keys), (keys[:1, :, :2] + 1, keys[:, :, :1] + 2)]


def alike(one, other):
    for index in range(min(len(one), len(other))):
        if one[index] != other[index]:
            return index
    return min(len(one), len(other))


SEQUENCE = st.lists(st.integers(0, 2), min_size=1, max_size=8)


@given(st.lists(st.tuples(st.integers(0, 1), SEQUENCE), max_size=25), st.sampled_from([0, 5, 12, 1000]))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_the_longest_kept_beginning_is_found_with_its_own_kv(added, limit):
    cache, seen = PrefixCache(), {0: [], 1: []}
    cache.bound(limit)
    cache.open(0)
    cache.open(1)
    for tree, ids in added:
        ids = np.asarray(ids, np.int32)
        cache.add(tree, ids, kv_of(ids.tolist()))
        seen[tree].append(ids.tolist())
        assert cache.tokens <= limit
        assert cache.tokens == sum(len(piece.ids) for piece in cache._by_age)
        for other in (0, 1):
            found = cache.find(other, ids)
            want = max((alike(ids.tolist(), one) for one in seen[other]), default=0)
            assert found.length == want if limit == 1000 else found.length <= want
            if found.length:
                for got, expected in zip(cache.read(found, found.length), kv_of(ids.tolist()), strict=True):
                    for have, wanted in zip(got, expected, strict=True):
                        assert torch.equal(have, wanted[:, : found.length])
    if limit == 1000:  # a token of a tree is kept once, whatever was added in whatever order
        assert cache.tokens == sum(
            len({tuple(one[: i + 1]) for one in sequences for i in range(len(one))}) for sequences in seen.values()
        )
    cache.release([0, 7])
    assert cache.find(0, np.zeros(3, np.int32)).length == 0
    cache.release([1])
    assert cache.tokens == 0 and not cache.in_use and not cache._by_age


def test_the_longest_unused_goes_first_and_never_what_something_hangs_on():
    cache = PrefixCache()
    cache.bound(10)
    cache.open(0)

    def add(*ids):
        cache.add(0, np.asarray(ids, np.int32), kv_of(ids))

    def found(*ids):
        return cache.find(0, np.asarray(ids, np.int32)).length

    add(1, 2, 3, 4)
    add(1, 2, 3, 4, 5, 6, 7)
    add(8, 9, 9)
    assert cache.tokens == 10 and found(1, 2, 3, 4) == 4
    add(8, 9, 9, 1)  # 5, 6, 7 is the oldest; 1, 2, 3, 4 was used since
    assert cache.tokens == 8 and found(1, 2, 3, 4, 5) == 4 and found(8, 9, 9, 1) == 4
    add(*range(20, 40))  # more than there is room for: its beginning alone
    assert cache.tokens == 10 and found(*range(20, 40)) == 10


def sum_of_costs(groups):
    return sum((group.cost for group in groups), start=type(groups[0].cost)())


def watched(engine, counts):
    """Note the shape of every forward's input in ``counts``."""
    forward = engine.model.forward

    def counting(*args, **kwargs):
        counts.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    engine.model.forward = counting


class Doubling:
    """Every segment is continued by ``width`` others from its end, or from ``back`` tokens before."""

    def __init__(self, width=2, depth=3, tokens=8, back=0, sampling=None):
        self.width, self.depth, self.tokens, self.back = width, depth, tokens, back
        self.sampling = sampling or Sampling()
        self.inner = RandomTree(0, tokens)

    def name(self, group, segment):
        """Where in the tree a segment is, whatever the order in which segments were asked for."""
        parent = group.segments[segment].parent
        if parent is None:
            return 0
        siblings = [other.id for other in group.segments if other.parent == parent]
        return self.name(group, parent) * self.width + 1 + siblings.index(segment)

    def named(self, group):
        return {self.name(group, segment.id): segment for segment in group.segments}

    def _specs(self, group, parent, kept):
        first = self.name(group, parent) * self.width + 1
        return [replace(self.inner._spec(parent, kept, first + i), sampling=self.sampling) for i in range(self.width)]

    def start(self, group):
        return self._specs(group, 0, len(group.segments[0]))

    def on_segment(self, group, segment):
        deep = len(group.path(segment.id)) > self.depth
        return [] if deep else self._specs(group, segment.id, max(len(segment) - self.back, 0))

    def finish(self, group):
        return self.inner.finish(group)


@pytest.mark.parametrize("kind", MODELS)
def test_a_tree_prefills_its_prompt_once_and_nothing_else(kind):
    """One prompt of 17, two segments of 8, four, eight: T_pre = 17 and not 17 + 2 * 25 + 4 * 33."""
    engine = TransformersEngine(copy.deepcopy(MODELS[kind]), [], max_live=64, allowed_vocab=REAL)
    counts = []
    watched(engine, counts)
    (group,) = run_groups(Doubling(), engine, [prompt_group(0, list(range(3, 20)))], seed=1, step=0)
    cost = group.cost
    assert (cost.decoded, cost.prefilled) == (14 * 8, 17)
    assert cost.prefilled + cost.cached == 2 * 17 + 4 * 25 + 8 * 33
    # the one prefill is the prompt's; the last tokens are read by rows that decode anyway
    assert [shape for shape in counts if shape[1] > 1] == [(1, 17)]
    assert sum(shape[0] for shape in counts if shape[1] == 1) == 14 * 8 - 2 - 2 - 4


def test_a_late_split_prefills_nothing():
    engine = TransformersEngine(MODELS["qwen2"], [], max_live=64, allowed_vocab=REAL)
    (group,) = run_groups(Doubling(back=3), engine, [prompt_group(0, list(range(3, 20)))], seed=1, step=0)
    assert group.cost.prefilled == 17 and group.cost.decoded == 14 * 8


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("max_live", [3, 40])
def test_random_trees_equal_those_of_an_engine_that_keeps_nothing(kind, max_live):
    """Late splits, forced tokens, copies: same tokens, log-probs within 1e-5, and each context token prefilled once."""
    groups = [prompt_group(index, context.tolist()) for index, context in enumerate(prompts(5, seed=5))]
    driver = RandomTree(3, max_segments=40)
    options = {"max_live": max_live, "allowed_vocab": REAL}
    engine = TransformersEngine(MODELS[kind], [1], **options)
    kept = run_groups(driver, engine, groups, seed=1, step=0)
    plain = run_groups(driver, TransformersEngine(MODELS[kind], [1], max_kept=0, **options), groups, seed=1, step=0)
    for one, other in zip(kept, plain, strict=True):
        assert len(one.segments) == len(other.segments)
        forced = set()
        for a, b in zip(one.segments, other.segments, strict=True):
            assert a.ids.tolist() == b.ids.tolist() and a.stop is b.stop
            np.testing.assert_allclose(a.logp, b.logp, atol=1e-5, rtol=0)
            if a.kind is Kind.SAMPLED:
                context = one.context_ids(a.id)[: -len(a)].tolist()
                assert a.cost.prefilled + a.cost.cached == len(context)
                if a.cost.prefilled:
                    want = scored(MODELS[kind], np.asarray(context), a.ids, Sampling())
                    np.testing.assert_allclose(a.logp, want, atol=1e-4, rtol=0)
                forced.add(tuple(context))
        sampled = {
            tuple(one.context_ids(s.id)[:end].tolist())
            for s in one.segments
            if s.kind is Kind.SAMPLED
            for end in range(len(one.context_ids(s.id)) - len(s) + 1, len(one.context_ids(s.id)) + 1)
        }
        needed = {context[: i + 1] for context in forced for i in range(len(context))}
        new = len(needed - sampled)
        ends = sum(tuple(one.context_ids(s.id).tolist()) in needed for s in one.segments if s.kind is Kind.SAMPLED)
        assert new <= one.cost.prefilled <= new + ends
    assert sum_of_costs(plain).prefilled > 1.5 * sum_of_costs(kept).prefilled
    assert engine.kv_tokens == 0 and engine._slots is None


def test_greedy_trees_equal_those_of_an_engine_that_keeps_nothing():
    groups = [prompt_group(index, context.tolist()) for index, context in enumerate(prompts(8, seed=6))]
    driver = Doubling(width=2, back=1, sampling=Sampling(0.0))
    both = [
        run_groups(
            driver, TransformersEngine(MODELS["llama"], [1], max_kept=n, allowed_vocab=REAL), groups, seed=0, step=0
        )
        for n in (None, 0)
    ]
    for one, other in zip(*both, strict=True):
        assert one.cost.prefilled < other.cost.prefilled
        wanted = driver.named(other)
        assert {n: s.ids.tolist() for n, s in driver.named(one).items()} == {
            n: s.ids.tolist() for n, s in wanted.items()
        }


def test_fewer_kept_tokens_cost_prefill_and_change_nothing_else():
    groups = [prompt_group(index, context.tolist()) for index, context in enumerate(prompts(6, 10, 20, seed=8))]
    driver, results, prefilled = Doubling(depth=4), [], []
    for limit in (None, 120, 40, 7, 0):
        engine = TransformersEngine(MODELS["qwen2"], [], max_live=8, max_kept=limit, allowed_vocab=REAL)
        most = []
        add = engine._kept.add

        def noted(*given, engine=engine, most=most, add=add):
            add(*given)
            most.append(engine._kept.tokens)

        engine._kept.add = noted
        results.append(run_groups(driver, engine, groups, seed=1, step=0))
        prefilled.append(sum_of_costs(results[-1]).prefilled)
        assert limit is None or max(most) <= limit
    assert prefilled[0] == sum(len(group.segments[0]) for group in groups)
    assert prefilled == sorted(prefilled) and prefilled[-1] > 4 * prefilled[0]
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            for name, a in driver.named(one).items():
                b = driver.named(other)[name]
                assert a.ids.tolist() == b.ids.tolist()
                np.testing.assert_allclose(a.logp, b.logp, atol=1e-5, rtol=0)


def test_kv_memory_is_shared_by_live_and_kept_and_one_too_small_for_a_tree_still_serves_it():
    """256 B a token. A path needs 16 + 3 * 8 = 40 tokens, a tree of 14 segments 16 + 14 * 8 = 128."""
    group = prompt_group(0, list(range(3, 19)))
    for tokens, prefilled in ((400, 16), (60, None), (40, None)):
        engine = TransformersEngine(MODELS["qwen2"], [], allowed_vocab=REAL, kv_bytes=tokens * 256)
        (done,) = run_groups(Doubling(), engine, [group], seed=1, step=0)
        assert done.cost.prefilled == prefilled if prefilled else done.cost.prefilled > 16
        assert engine.limits.rows(40, trees=True) * 40 + engine.limits.kept(40) <= tokens
    with pytest.raises(ConfigError, match="40 x 256 B = 10,240 B of KV but kv_bytes is 9,984"):
        run_groups(Doubling(), TransformersEngine(MODELS["qwen2"], [], kv_bytes=39 * 256), [group], seed=1, step=0)
    with pytest.raises(ConfigError, match="max_kept is -1"):
        TransformersEngine(MODELS["qwen2"], [], max_kept=-1)


def continued(engine, weights):
    """A finished segment, new weights, and what continues the segment: ``(context, completion)``."""
    (first,) = run(engine, [request(0, prompts(1, 20, 30)[0], 12, Sampling(0.0), tree=5)])
    assert engine.kv_tokens > 30
    engine.sync(weights, 1)
    context = np.concatenate([prompts(1, 20, 30)[0], first.ids])
    return context, run(engine, [request(1, context, 12, Sampling(0.0), tree=5)])[0]


@pytest.mark.parametrize("kind", MODELS)
def test_after_a_sync_nothing_kept_is_read(kind, monkeypatch):
    changed, weights = other_weights(MODELS[kind])
    engine = TransformersEngine(copy.deepcopy(MODELS[kind]), [], allowed_vocab=REAL)
    context, done = continued(engine, weights)
    assert (done.cost.prefilled, done.cost.cached, done.policy_version) == (len(context), 0, 1)
    np.testing.assert_allclose(done.logp, scored(changed, context, done.ids, Sampling(0.0)), atol=1e-4, rtol=0)
    # the tree is still open: what continues it under the new weights finds what those computed
    (more,) = run(engine, [request(2, np.concatenate([context, done.ids]), 4, tree=5)])
    assert more.cost.prefilled == 0
    # with the reset taken out the comparison must fail
    monkeypatch.setattr(PrefixCache, "clear", lambda self: None)
    engine = TransformersEngine(copy.deepcopy(MODELS[kind]), [], allowed_vocab=REAL)
    context, stale = continued(engine, weights)
    assert stale.cost.prefilled == 0
    assert abs(stale.logp - scored(changed, context, stale.ids, Sampling(0.0))).max() > 1e-2


def test_only_what_may_be_continued_is_kept_and_only_until_the_release():
    context = prompts(1, 20, 21)[0]
    engine = TransformersEngine(MODELS["qwen2"], [], allowed_vocab=REAL)
    assert isinstance(engine, KeepsPrefixes)
    run(engine, [request(0, context, 12)])
    assert engine.kv_tokens == 0 and engine._slots is None
    run(engine, [request(0, context, 12, tree=1, keep=8)])
    assert engine.kv_tokens == 8
    (done,) = run(engine, [request(0, context, 12, tree=1)])
    assert (done.cost.prefilled, done.cost.cached) == (12, 8) and engine.kv_tokens == 20 + 12 - 1
    (other,) = run(engine, [request(0, context, 12, tree=2, keep=0)])
    assert other.cost.prefilled == 20 and engine.kv_tokens == 31
    engine.release([1, 9])
    assert engine.kv_tokens == 0 and engine._slots is None
    with pytest.raises(ConfigError, match="keep is -1"):
        engine.submit([request(0, context, tree=1, keep=-1)])


def test_contexts_that_share_an_unknown_beginning_wait_for_each_other_instead_of_computing_it_twice():
    """Fork and join: four headers after one thought, of which the last token is not computed yet."""
    thought = prompts(1, 20, 21)[0]
    engine = TransformersEngine(MODELS["qwen2"], [], allowed_vocab=REAL)
    threads = [request(i, np.append(thought, [2 + i, 7]).astype(np.int32), 5, tree=1) for i in range(4)]
    done = run(engine, threads)
    assert [completion.cost.prefilled for completion in done] == [22, 2, 2, 2]
    for asked, completion in zip(threads, done, strict=True):
        want = scored(MODELS["qwen2"], asked.context, completion.ids, Sampling())
        np.testing.assert_allclose(completion.logp, want, atol=1e-4, rtol=0)


def test_a_prompt_of_one_token_and_an_aborted_predecessor_can_be_continued():
    engine = TransformersEngine(MODELS["llama"], [], allowed_vocab=REAL)
    prompt = np.asarray([5], np.int32)
    (first,) = run(engine, [request(0, prompt, 1, tree=1)])
    (again,) = run(engine, [request(0, prompt, 9, tree=1)])
    assert (first.cost.prefilled, again.cost.prefilled) == (1, 0) and first.ids[0] == again.ids[0]
    engine.submit([request(2, prompt, 30, tree=2)])
    for _ in range(4):
        engine.step()
    (ended,) = engine.abort([2])
    context = np.concatenate([prompt, ended.ids])
    (resumed,) = run(engine, [request(3, context, 6, tree=2, position=len(ended.ids))])
    assert len(ended.ids) == 5 and resumed.cost.prefilled == 0
    np.testing.assert_allclose(
        resumed.logp, scored(MODELS["llama"], context, resumed.ids, Sampling()), atol=1e-4, rtol=0
    )


def test_attention_with_a_soft_cap_continues_on_kept_tokens_too():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    size = {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
    size |= {"intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 300, "sliding_window": 300}
    config = Gemma2Config(**size, attn_logit_softcapping=2.0)
    model = Gemma2ForCausalLM._from_config(config, attn_implementation="eager").eval()
    engine = TransformersEngine(model, [], allowed_vocab=REAL)
    for group in run_groups(RandomTree(3), engine, [prompt_group(0, [5, 6, 7])], seed=1, step=0):
        for segment in group.segments:
            if segment.kind is Kind.SAMPLED:
                context = group.context_ids(segment.id)[: -len(segment)]
                want = scored(model, context, segment.ids, Sampling())
                np.testing.assert_allclose(segment.logp, want, atol=1e-4, rtol=0)


def peak(driver, engine, group):
    """Most KV tokens held at the end of any step."""
    most = []
    step = engine.step

    def noted():
        done = step()
        most.append(engine.kv_tokens)
        return done

    engine.step = noted
    (done,) = run_groups(driver, engine, [group], seed=1, step=0)
    return max(most), done


def test_long_thought_in_chunks_holds_no_more_than_short():
    model = make("qwen2", max_position_embeddings=700)
    peaks = []
    for chunks in (2, 9):
        driver = DelethinkDriver(chunk=64, head=4, tail=28, max_chunks=chunks, group_size=4, max_completion=640)
        engine = TransformersEngine(model, [], allowed_vocab=REAL)
        most, done = peak(driver, engine, prompt_group(0, list(range(3, 13))))
        peaks.append(most)
        # the first chunk's context is the prompt; of every other one the prompt and the head are found
        found = done.cost.cached - 3 * 10
        assert done.cost.prefilled == 10 + 4 * (chunks - 1) * 28 and found == 4 * (chunks - 1) * 14
    assert peaks[0] == peaks[1] <= 4 * (10 + 64) + 10 + 4 * 4
    flat = FlatDriver(group_size=4, max_completion=320)
    assert peak(flat, TransformersEngine(model, [], allowed_vocab=REAL), prompt_group(0, [3, 4]))[0] > 4 * 300
