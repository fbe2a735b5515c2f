"""The embedded engine against the model itself: same tokens, same log-probs, exact costs, no stale cache."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import MODELS, REAL, SIZE, make, other_weights, prompts, request, run, scored
from trees import RandomTree, prompt_group

from laconic.errors import ConfigError, DataError
from laconic.rollout.engines import ENGINES, engine_class
from laconic.rollout.engines.protocol import Sampling
from laconic.rollout.engines.rows import Call, Rows
from laconic.rollout.engines.slots import SlotCache
from laconic.rollout.engines.transformers import TransformersEngine
from laconic.rollout.records import Kind, Stop
from laconic.rollout.scheduler import run_groups


@pytest.mark.parametrize("kind", MODELS)
def test_greedy_equals_generate_token_for_token(kind):
    model, contexts = MODELS[kind], prompts(24)
    wanted = []
    for context in contexts:
        ids = torch.tensor(context, dtype=torch.int64)[None]
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=30,
            do_sample=False,
            eos_token_id=1,
            pad_token_id=0,
            suppress_tokens=list(range(REAL, 32)),
        )
        wanted.append(output[0, len(context) :].tolist())
    assert {want[-1] == 1 for want in wanted} == {True, False}
    requests = [request(i, c, 30, Sampling(0.0)) for i, c in enumerate(contexts)]
    for max_live in (3, 64):
        done = run(TransformersEngine(model, [1], max_live=max_live, allowed_vocab=REAL), requests)
        for context, want, completion in zip(contexts, wanted, done, strict=True):
            assert completion.ids.tolist() == want
            assert completion.stop is (Stop.EOS if want[-1] == 1 else Stop.LENGTH)
            logp = scored(model, context, completion.ids, Sampling(0.0))
            np.testing.assert_allclose(completion.logp, logp, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", MODELS)
def test_log_probs_equal_a_teacher_forced_forward_under_the_sampling_distribution(kind):
    kinds = [Sampling(0.6), Sampling(1.0), Sampling(1.3), Sampling(1.0, top_p=0.7), Sampling(1.3, 0.9, 8)]
    contexts = prompts(20, seed=1)
    requests = [request(i, c, sampling=kinds[i % len(kinds)]) for i, c in enumerate(contexts)]
    done = run(TransformersEngine(MODELS[kind], [1], max_live=16, allowed_vocab=REAL), requests)
    for asked, completion in zip(requests, done, strict=True):
        want = scored(MODELS[kind], asked.context, completion.ids, asked.sampling)
        np.testing.assert_allclose(completion.logp, want, atol=1e-4, rtol=0)
        assert completion.logp.dtype == np.float32 and completion.ids.dtype == np.int32


def test_draws_do_not_depend_on_live_slots_or_order_of_arrival():
    contexts = prompts(6, seed=2)
    requests = [request(i, contexts[i // 4], 1 + 13 * i % 40, leaf=i % 4) for i in range(24)]
    few = run(TransformersEngine(MODELS["qwen2"], [1], max_live=3, allowed_vocab=REAL), requests)
    order = np.random.default_rng(0).permutation(24)
    many = run(TransformersEngine(MODELS["qwen2"], [1], max_live=64, allowed_vocab=REAL), [requests[i] for i in order])
    for one, other in zip(few, many, strict=True):
        assert one.ids.tolist() == other.ids.tolist() and one.stop is other.stop
        np.testing.assert_allclose(one.logp, other.logp, atol=1e-4, rtol=0)


def test_long_and_short_rows_share_the_batch_without_mixing_up_their_caches(monkeypatch):
    """More rows than a chunk of the attention, lengths from 1 to 140, so rows are reordered and moved on the way."""
    contexts = prompts(80, 1, 6, seed=3)
    lengths = np.random.default_rng(1).permutation(np.geomspace(1, 140, 80).astype(int)).tolist()
    engine = TransformersEngine(MODELS["qwen2"], [], max_live=24, allowed_vocab=REAL)
    original, moves, chunks = SlotCache.order_by_length, [], []

    def watch(self, length_n):
        self.chunk_rows, self.chunk_tokens = 4, 0  # the model is too small to be worth chunks of its own accord
        chunks.append(len(self._chunks(length_n)))
        moves.append(original(self, length_n))
        return moves[-1]

    monkeypatch.setattr(SlotCache, "order_by_length", watch)
    requests = [request(i, c, n) for i, (c, n) in enumerate(zip(contexts, lengths, strict=True))]
    done = run(engine, requests)
    assert any(source for source, _ in moves) and max(chunks) >= 4
    for asked, completion in zip(requests, done, strict=True):
        assert len(completion.ids) == asked.max_tokens and completion.stop is Stop.LENGTH
        want = scored(MODELS["qwen2"], asked.context, completion.ids, Sampling())
        np.testing.assert_allclose(completion.logp, want, atol=1e-4, rtol=0)


def test_every_sampled_segment_of_a_tree_rescores_to_its_own_log_probs():
    engine = TransformersEngine(MODELS["llama"], [1], max_live=7, allowed_vocab=REAL)
    groups = [prompt_group(index, context.tolist()) for index, context in enumerate(prompts(4, seed=5))]
    done = run_groups(RandomTree(3), engine, groups, seed=1, step=0)
    assert max(len(group.path(leaf.segment)) for group in done for leaf in group.leaves) > 3
    for group in done:
        for segment in group.segments:
            if segment.kind is Kind.SAMPLED:
                context = group.context_ids(segment.id)[: -len(segment)]
                want = scored(MODELS["llama"], context, segment.ids, Sampling())
                np.testing.assert_allclose(segment.logp, want, atol=1e-4, rtol=0)


def test_padded_ids_are_never_sampled():
    done = run(
        TransformersEngine(MODELS["qwen2"], [], allowed_vocab=5),
        [request(i, c, 60, Sampling(5.0)) for i, c in enumerate(prompts(20))],
    )
    assert max(int(completion.ids.max()) for completion in done) == 4


def test_a_prompt_is_prefilled_once_and_costs_are_exact():
    contexts = prompts(3, 4, 20, seed=4)
    requests = [request(i, contexts[i // 8], leaf=i % 8) for i in range(24)]
    engine = TransformersEngine(MODELS["qwen2"], [1], max_live=5, allowed_vocab=REAL)
    seen = []
    forward = engine.model.forward

    def counting(*args, **kwargs):
        seen.append(kwargs["input_ids"].shape)
        return forward(*args, **kwargs)

    engine.model.forward = counting
    try:
        done = run(engine, requests)
    finally:
        del engine.model.forward
    cost = sum((completion.cost for completion in done), start=type(done[0].cost)())
    assert cost.prefilled == sum(len(context) for context in contexts)
    assert cost.cached == 7 * cost.prefilled
    assert cost.decoded == sum(len(completion.ids) for completion in done)
    assert cost.kv_read == sum(
        sum(len(asked.context) + i for i in range(len(completion.ids)))
        for asked, completion in zip(requests, done, strict=True)
    )
    assert [shape for shape in seen if shape[1] > 1] == [(3, max(len(context) for context in contexts))]
    # the first token of each answer comes from the prefill, every other from one row of one decode step: no padding
    assert sum(shape[0] for shape in seen if shape[1] == 1) == cost.decoded - 24
    assert max(shape[0] for shape in seen if shape[1] == 1) == 5


def test_a_finished_slot_is_refilled_at_once():
    engine = TransformersEngine(MODELS["qwen2"], [], max_live=4, allowed_vocab=REAL)
    engine.submit([request(i, c, 3 + i % 5) for i, c in enumerate(prompts(20))])
    ended = 0
    while engine.busy:
        queued = 20 - ended - engine.live
        ended += len(done := engine.step())
        # ended sequences left the batch only at the end of the step, in which all four slots were used
        assert engine.live + len(done) >= min(4, engine.live + len(done) + queued)
    assert ended == 20


def test_eos_at_the_cap_is_eos_and_a_stop_token_is_named():
    model, context = MODELS["qwen2"], prompts(1, 5, 9)[0]
    (free,) = run(TransformersEngine(model, [], allowed_vocab=REAL), [request(0, context, 10)])
    last = int(free.ids[9])
    first = free.ids.tolist().index(last)
    (eos,) = run(TransformersEngine(model, [last], allowed_vocab=REAL), [request(0, context, first + 1)])
    assert eos.stop is Stop.EOS and eos.ids.tolist() == free.ids[: first + 1].tolist()
    engine = TransformersEngine(model, [], allowed_vocab=REAL)
    (stopped,) = run(engine, [request(0, context, first + 1, stop_ids=(last,))])
    assert stopped.stop is Stop.STOP_TOKEN and stopped.ids.tolist() == eos.ids.tolist()
    engine = TransformersEngine(model, [last], allowed_vocab=REAL)
    (both,) = run(engine, [request(0, context, first + 1, stop_ids=(last,))])
    assert both.stop is Stop.EOS


@given(st.integers(1, 12), st.data())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_rows_are_never_lost_or_doubled_whatever_ends_when(count, data):
    rows = Rows([1], REAL)
    waiting, live = list(range(25)), {}
    while waiting or live:
        calls = [Call(request(index, np.full(3, 2, np.int32)), b"") for index in waiting[: count - rows.live]]
        del waiting[: len(calls)]
        for call, slot in zip(calls, rows.admit(calls) if calls else [], strict=True):
            live[slot] = call.request.id
        source, target = rows.close_holes()
        assert not set(source) & set(target)
        for old, new in zip(source, target, strict=True):
            assert new not in live
            live[new] = live.pop(old)
        assert sorted(live) == list(range(rows.used)) and rows.used == rows.live
        for slot in data.draw(st.sets(st.sampled_from(sorted(live)), min_size=1)):
            assert rows.release(slot)[0].request.id == live.pop(slot)


def test_one_token_completions_end_without_a_decode_step():
    done = run(
        TransformersEngine(MODELS["qwen2"], [], max_live=3, allowed_vocab=REAL),
        [request(i, c, 1) for i, c in enumerate(prompts(10))],
    )
    assert [len(completion.ids) for completion in done] == [1] * 10
    assert {completion.stop for completion in done} == {Stop.LENGTH}


def test_requests_that_cannot_run_are_refused_with_value_limit_and_remedy():
    engine = TransformersEngine(MODELS["qwen2"], [1], kv_bytes=100 * 256)
    with pytest.raises(ConfigError, match="empty prompt"):
        engine.submit([request(0, np.empty(0, np.int32))])
    with pytest.raises(ConfigError, match="290 tokens plus max_tokens 11 is 301 but the engine holds 300.*lower"):
        engine.submit([request(0, np.full(290, 3, np.int32), 11)])
    with pytest.raises(ConfigError, match="max_tokens is 0"):
        engine.submit([request(0, np.full(2, 3, np.int32), 0)])
    with pytest.raises(ConfigError, match="101 x 256 B = 25,856 B of KV but kv_bytes is 25,600"):
        engine.submit([request(0, np.full(61, 3, np.int32), 40)])
    with pytest.raises(ConfigError, match="top_p"):
        engine.submit([request(0, np.full(2, 3, np.int32), sampling=Sampling(top_p=0.0))])
    with pytest.raises(ConfigError, match="max_context is 301"):
        TransformersEngine(MODELS["qwen2"], [1], max_context=301)
    with pytest.raises(ConfigError, match="last 64 tokens only"):
        TransformersEngine(make("qwen2", use_sliding_window=True, sliding_window=64, max_window_layers=0), [1])
    assert not engine.busy


def test_kv_bytes_bounds_the_live_sequences():
    engine = TransformersEngine(MODELS["qwen2"], [], allowed_vocab=REAL, kv_bytes=3 * 50 * 256)
    engine.submit([request(i, c, 50 - len(c)) for i, c in enumerate(prompts(9))])
    most = 0
    while engine.busy:
        engine.step()
        most = max(most, engine.live)
    assert most == 3


def stale_or_fresh(engine, weights):
    """Prefill under the old weights, abort what is live, sync, and decode the siblings that were queued."""
    context = prompts(1, 20, 30)[0]
    engine.submit([request(i, context, 20, Sampling(0.0), leaf=i) for i in range(6)])
    engine.step()
    aborted = engine.abort([0, 1])
    assert [completion.stop for completion in aborted] == [Stop.ABORTED] * 2
    assert [len(completion.ids) for completion in aborted] == [2, 2]
    engine.sync(weights, 1)
    done = []
    while engine.busy:
        done += engine.step()
    return context, done


@pytest.mark.parametrize("kind", MODELS)
def test_after_a_sync_no_state_of_the_old_weights_is_read(kind, monkeypatch):
    changed, weights = other_weights(MODELS[kind])
    engine = TransformersEngine(copy.deepcopy(MODELS[kind]), [], max_live=2, allowed_vocab=REAL)
    context, done = stale_or_fresh(engine, weights)
    assert len(done) == 4
    for completion in done:
        assert completion.policy_version == 1
        want = scored(changed, context, completion.ids, Sampling(0.0))
        np.testing.assert_allclose(completion.logp, want, atol=1e-4, rtol=0)
    # the same run with the drop taken out must be caught by the comparison above
    monkeypatch.setattr(TransformersEngine, "_drop_caches", lambda self: None)
    engine = TransformersEngine(copy.deepcopy(MODELS[kind]), [], max_live=2, allowed_vocab=REAL)
    context, stale = stale_or_fresh(engine, weights)
    errors = [abs(c.logp - scored(changed, context, c.ids, Sampling(0.0))).max() for c in stale]
    assert max(errors) > 1e-2


def test_shared_weights_need_only_a_version():
    model = copy.deepcopy(MODELS["qwen2"])
    engine = TransformersEngine(model, [], max_live=2, allowed_vocab=REAL)
    changed, weights = other_weights(model)
    model.load_state_dict(weights)
    engine.sync(None, 4)
    context = prompts(1)[0]
    (completion,) = run(engine, [request(0, context)])
    assert completion.policy_version == 4
    want = scored(changed, context, completion.ids, Sampling())
    np.testing.assert_allclose(completion.logp, want, atol=1e-4, rtol=0)


def test_incomplete_or_contradictory_weights_are_an_error():
    engine = TransformersEngine(copy.deepcopy(MODELS["qwen2"]), [])
    complete = {name: tensor.clone() for name, tensor in engine.model.state_dict().items()}
    with pytest.raises(DataError, match="lack 1 of .*lm_head.weight.*tied aliases"):
        engine.sync({name: tensor for name, tensor in complete.items() if name != "lm_head.weight"}, 1)
    with pytest.raises(DataError, match="1 unknown"):
        engine.sync({**complete, "strange": torch.zeros(1)}, 1)
    with pytest.raises(DataError, match="shape"):
        engine.sync({**complete, "model.norm.weight": torch.zeros(3)}, 1)
    with pytest.raises(DataError, match="tied in the model but differ"):
        engine.sync({**complete, "lm_head.weight": complete["lm_head.weight"] + 1}, 1)
    assert engine.policy_version == 0
    engine.sync(complete, 1)
    assert engine.policy_version == 1


def test_a_sync_under_live_sequences_and_a_falling_version_are_refused():
    engine = TransformersEngine(MODELS["qwen2"], [], allowed_vocab=REAL)
    engine.submit([request(0, prompts(1)[0])])
    engine.step()
    with pytest.raises(RuntimeError, match="1 sequences are live"):
        engine.sync(None, 1)
    engine.abort([0])
    engine.sync(None, 2)
    with pytest.raises(ValueError, match="only rise"):
        engine.sync(None, 1)


def test_abort_ends_live_and_queued_requests_and_spares_the_others():
    contexts = prompts(8)
    requests = [request(i, c, 12) for i, c in enumerate(contexts)]
    untouched = run(TransformersEngine(MODELS["qwen2"], [], allowed_vocab=REAL), requests)
    engine = TransformersEngine(MODELS["qwen2"], [], max_live=4, allowed_vocab=REAL)
    engine.submit(requests)
    for _ in range(3):
        engine.step()
    ended = {completion.request: completion for completion in engine.abort([1, 2, 6, 99])}
    assert sorted(ended) == [1, 2, 6]
    assert ended[1].ids.tolist() == untouched[1].ids[:4].tolist() and ended[1].stop is Stop.ABORTED
    assert len(ended[6].ids) == 0 and ended[6].cost.decoded == 0
    done = []
    while engine.busy:
        done += engine.step()
    done.sort(key=lambda completion: completion.request)
    assert [completion.request for completion in done] == [0, 3, 4, 5, 7]
    for completion in done:
        assert completion.ids.tolist() == untouched[completion.request].ids.tolist()


def test_training_flags_come_back_and_dropout_and_checkpointing_do_not_disturb():
    model = make("qwen2", attention_dropout=0.5)
    want = run(TransformersEngine(model, [], allowed_vocab=REAL), [request(0, prompts(1)[0])])
    model.train()
    model.model.layers[0].eval()
    model.gradient_checkpointing_enable()
    flags = [module.training for module in model.modules()]
    got = run(TransformersEngine(model, [], allowed_vocab=REAL), [request(0, prompts(1)[0])])
    assert got[0].ids.tolist() == want[0].ids.tolist()
    assert [module.training for module in model.modules()] == flags
    loss = model(torch.tensor([[3, 4, 5]]), labels=torch.tensor([[3, 4, 5]])).loss
    loss.backward()
    assert model.model.layers[0].self_attn.q_proj.weight.grad is not None


def test_the_attention_implementation_is_put_back():
    for implementation in ("eager", "sdpa"):
        model = make("llama")
        model.set_attn_implementation(implementation)
        completion = run(TransformersEngine(model, [], allowed_vocab=REAL), [request(0, prompts(1)[0])])[0]
        assert model.config._attn_implementation == implementation
        want = scored(model, prompts(1)[0], completion.ids, Sampling())
        np.testing.assert_allclose(completion.logp, want, atol=1e-4, rtol=0)


def test_a_patched_forward_and_a_peft_wrapper_are_used_as_they_are():
    from peft import LoraConfig, get_peft_model

    model = make("llama")
    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False))
    original, calls = model.forward, []

    def patched(*args, logprob_head=False, **kwargs):
        calls.append(logprob_head)
        return original(*args, **kwargs)

    model.forward = patched
    context = prompts(1)[0]
    (completion,) = run(TransformersEngine(wrapped, [], allowed_vocab=REAL), [request(0, context)])
    assert len(calls) == 40 and not any(calls)
    wrapped.eval()
    np.testing.assert_allclose(completion.logp, scored(wrapped, context, completion.ids, Sampling()), atol=1e-4, rtol=0)


def test_attention_with_a_soft_cap_falls_back_to_the_models_own():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    size = {**SIZE, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 300, "attn_logit_softcapping": 2.0}
    model = Gemma2ForCausalLM._from_config(Gemma2Config(**size), attn_implementation="eager").eval()
    contexts = prompts(6)
    done = run(TransformersEngine(model, [], allowed_vocab=REAL), [request(i, c) for i, c in enumerate(contexts)])
    for context, completion in zip(contexts, done, strict=True):
        want = scored(model, context, completion.ids, Sampling())
        np.testing.assert_allclose(completion.logp, want, atol=1e-4, rtol=0)


def test_eos_ids_of_the_configuration_are_added():
    model = make("llama")
    model.config.eos_token_id, model.generation_config.eos_token_id = 4, [5, 6]
    assert TransformersEngine(model, [1, 4]).eos_ids == (1, 4, 5, 6)


def test_engines_are_found_by_name_or_import_path():
    assert engine_class("transformers") is TransformersEngine
    assert engine_class(ENGINES["transformers"]) is TransformersEngine
    with pytest.raises(ConfigError, match="unknown engine 'trnsformers'; known: .*transformers"):
        engine_class("trnsformers")


@pytest.mark.gpu
def test_on_a_gpu_greedy_equals_the_cpu():
    contexts = prompts(40)
    requests = [request(i, c, sampling=Sampling(0.0)) for i, c in enumerate(contexts)]
    cpu = run(TransformersEngine(MODELS["qwen2"], [1], allowed_vocab=REAL), requests)
    engine = TransformersEngine(copy.deepcopy(MODELS["qwen2"]), [1], max_live=16, allowed_vocab=REAL, device="cuda")
    for one, other in zip(cpu, run(engine, requests), strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        np.testing.assert_allclose(one.logp, other.logp, atol=1e-3, rtol=0)
