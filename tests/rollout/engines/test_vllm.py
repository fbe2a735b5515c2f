"""Real vLLM against the embedded engine and the model itself. Left out where no tested build is installed."""

import copy

import numpy as np
import pytest
import torch
from vllm_models import BLOCK, EOS, REAL, make, prompts, request, run, scored

from laconic.errors import ConfigError, DataError, RunError
from laconic.rollout.engines.protocol import Sampling
from laconic.rollout.engines.transformers import TransformersEngine
from laconic.rollout.records import Stop

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def colocated(request):
    """One engine per kind of output layer; every test syncs the weights it wants."""
    from laconic.rollout.engines.vllm_colocated import VllmEngine

    model = make(request.param)
    engine = VllmEngine(model, [EOS], max_live=32, max_context=400, allowed_vocab=REAL)
    yield engine
    engine.close()


@pytest.fixture
def engine(colocated):
    """With weights of a seed, and no cached prefix."""
    colocated.model.load_state_dict(make(colocated.model.config.tie_word_embeddings).state_dict())
    colocated.sync(None, colocated.policy_version)
    return colocated


def embedded(engine, **options):
    return TransformersEngine(engine.model, [EOS], max_context=400, allowed_vocab=REAL, **options)


def assert_greedy_is_equal(engine, count):
    requests = [request(i, c, 40, Sampling(0.0)) for i, c in enumerate(prompts(count))]
    for ours, theirs in zip(run(embedded(engine), requests), run(engine, requests), strict=True):
        assert ours.ids.tolist() == theirs.ids.tolist() and ours.stop is theirs.stop
        np.testing.assert_allclose(theirs.logp, ours.logp, atol=1e-3, rtol=0)


def test_greedy_equals_the_embedded_engine_token_for_token(engine):
    assert_greedy_is_equal(engine, 12)


@pytest.mark.soak
def test_greedy_equals_the_embedded_engine_for_200_prompts(engine):
    assert_greedy_is_equal(engine, 200)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.3])
def test_log_probs_are_those_of_the_sampling_distribution(engine, temperature):
    requests = [request(i, c, sampling=Sampling(temperature)) for i, c in enumerate(prompts(12, seed=1))]
    for asked, completion in zip(requests, run(engine, requests), strict=True):
        assert completion.ids.max() < REAL and completion.ids.dtype == np.int32
        want = scored(engine.model, asked.context, completion.ids, temperature)
        np.testing.assert_allclose(completion.logp, want, atol=1e-3, rtol=0)


def test_a_request_names_its_random_numbers(engine):
    context = prompts(1, 20, 30)[0]
    same = [request(7, context, 20), request(7, context, 20)]
    once, again = (run(engine, [one])[0].ids.tolist() for one in same)
    assert once == again
    other = run(engine, [request(7, context, 20, leaf=1)])[0].ids.tolist()
    later = run(engine, [request(7, context, 20, position=5)])[0].ids.tolist()
    assert once != other and once != later


def test_every_end_has_its_reason_and_keeps_its_token(engine):
    context = prompts(1, 20, 30)[0]
    whole = run(engine, [request(0, context, 30, Sampling(0.0))])[0]
    token = int(whole.ids[10])
    first = whole.ids.tolist().index(token)
    stopped = run(engine, [request(0, context, 30, Sampling(0.0), stop_ids=(token,))])[0]
    assert stopped.stop is Stop.STOP_TOKEN and stopped.ids.tolist() == whole.ids[: first + 1].tolist()
    assert run(engine, [request(0, context, 3, Sampling(0.0))])[0].stop is Stop.LENGTH
    ends = {done.stop for done in run(engine, [request(i, context, 60, leaf=i) for i in range(32)])}
    assert ends == {Stop.EOS, Stop.LENGTH}


def test_a_context_of_four_blocks_is_found_in_the_cache_and_its_cost_is_true(engine):
    context = np.arange(4 * BLOCK, dtype=np.int32) % 80 + 2
    first, second = (run(engine, [request(i, context, 5)])[0].cost for i in range(2))
    assert (first.prefilled, first.cached) == (128, 0)
    assert (second.prefilled, second.cached) == (32, 96)  # a hit ends at least one token before the context does
    assert second.decoded == 5 and second.kv_read == 5 * 128 + 10


@pytest.mark.parametrize("new", [1, 5, 31, 32, 33, 40])
def test_continuing_a_segment_prefills_at_most_one_block_again(engine, new):
    context = prompts(1, 4 * BLOCK, 4 * BLOCK + 1, seed=new)[0]
    segment = run(engine, [request(0, context, new, Sampling(0.0))])[0]
    continued = np.concatenate([context, segment.ids])
    cost = run(engine, [request(0, continued, 4, position=len(segment.ids))])[0].cost
    assert cost.cached > 0
    assert cost.prefilled <= (len(continued) - 1) % BLOCK + 1


def test_siblings_submitted_together_share_their_prefix(engine):
    context = prompts(1, 4 * BLOCK, 4 * BLOCK + 1, seed=9)[0]
    costs = [done.cost for done in run(engine, [request(i, context, 6, leaf=i) for i in range(8)])]
    assert sum(cost.prefilled for cost in costs) == 128 + 7 * 32


def test_abort_returns_the_tokens_so_far_and_others_go_on(engine):
    contexts = prompts(3, 10, 20)
    engine.submit([request(i, c, 30, Sampling(0.0)) for i, c in enumerate(contexts)])
    for _ in range(5):
        assert engine.step() == []
    (ended,) = engine.abort([1, 99])
    assert ended.stop is Stop.ABORTED and 0 < len(ended.ids) == len(ended.logp) == ended.cost.decoded < 30
    rest = []
    while engine.busy:
        rest += engine.step()
    assert sorted(done.request for done in rest) == [0, 2]
    whole = run(embedded(engine), [request(1, contexts[1], 30, Sampling(0.0))])[0]
    assert ended.ids.tolist() == whole.ids[: len(ended.ids)].tolist()


def changed(model):
    new = copy.deepcopy(model)
    with torch.no_grad():
        for weight in new.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return new


def test_sync_takes_every_weight_and_is_probed(engine):
    context = prompts(1, 30, 31)[0]
    engine.model.load_state_dict(changed(engine.model).state_dict())
    engine.sync(None, engine.policy_version + 1)
    assert 0 <= engine.mismatch < 1e-3
    got = run(engine, [request(0, context, 30, Sampling(0.0))])[0]
    assert got.ids.tolist() == run(embedded(engine), [request(0, context, 30, Sampling(0.0))])[0].ids.tolist()
    assert got.policy_version == engine.policy_version


def test_a_loader_that_skips_the_output_layer_is_caught(engine, monkeypatch):
    """What ``named_parameters()`` of a tied model gives: vLLM itself reports success."""
    weights = {name: tensor for name, tensor in changed(engine.model).state_dict().items() if name != "lm_head.weight"}
    with pytest.raises(DataError, match="lm_head.weight"):
        engine.sync(weights, engine.policy_version + 1)
    with pytest.raises(RunError, match="did not load all weights"):
        engine._load(weights)
    # and without that look at the log, the probe sees it
    engine.model.load_state_dict(changed(engine.model).state_dict())
    load = engine._engine.collective_rpc

    def without_head(method, kwargs):
        kept = [(name, tensor) for name, tensor in kwargs["weights_iterator"] if name != "lm_head.weight"]
        return load(method, kwargs={"weights_iterator": kept})

    monkeypatch.setattr(engine._engine, "collective_rpc", without_head)
    monkeypatch.setattr("laconic.rollout.engines.vllm_colocated._is_loss", lambda line, layers: False)
    with pytest.raises(RunError, match="does not decode with the trainer's weights"):
        engine.sync(None, engine.policy_version + 1)
    monkeypatch.undo()


@pytest.mark.parametrize("reset", [False, True], ids=["without_reset", "with_reset"])
def test_no_prefix_of_older_weights_is_read(engine, monkeypatch, reset):
    """The same test fails once the reset is taken away: then it sees the old prefix."""
    context = prompts(1, 4 * BLOCK + 1, 4 * BLOCK + 2, seed=5)[0]
    run(engine, [request(0, context, 4)])
    engine.model.load_state_dict(changed(engine.model).state_dict())
    if not reset:
        monkeypatch.setattr(engine, "_drop_caches", lambda: None)
    engine.sync(None, engine.policy_version + 1)
    (done,) = run(engine, [request(0, context, 8)])
    difference = np.abs(done.logp - scored(engine.model, context, done.ids, 1.0)).max()
    if reset:
        assert done.cost.cached == 0 and difference < 1e-3
    else:
        assert done.cost.cached == 128 and difference > 1e-2


def test_weights_come_between_rollouts_only(engine):
    engine.submit([request(0, prompts(1)[0], 5)])
    with pytest.raises(RuntimeError, match="1 requests are live"):
        engine.sync(None, engine.policy_version + 1)
    engine.abort([0])
    with pytest.raises(ValueError, match="versions only rise"):
        engine.sync(None, engine.policy_version - 1)


def test_requests_that_can_never_run_are_refused(engine):
    with pytest.raises(ConfigError, match="is 405 but the engine holds 400"):
        engine.submit([request(0, np.full(400, 3), 5)])
    assert not engine.busy and engine.step() == []


def test_the_trainers_process_stays_as_it_was(engine):
    """vLLM replaces ``torch.set_num_threads`` when it starts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)
