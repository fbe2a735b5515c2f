"""One real vLLM server for the session: the same answers as in process, weights over HTTP, and faults."""

import numpy as np
import pytest
from vllm_models import BLOCK, EOS, REAL, narrow, prompts, request, run, scored

from laconic.errors import ConfigError, RunError
from laconic.rollout.engines.protocol import Sampling
from laconic.rollout.engines.transformers import TransformersEngine
from laconic.rollout.engines.vllm_server import VllmServerEngine
from laconic.rollout.records import Stop

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def engine(vllm_server):
    engine = VllmServerEngine(narrow(), [EOS], max_live=16, max_context=400, allowed_vocab=REAL, address=vllm_server)
    yield engine
    engine.close()


def test_the_server_decodes_with_the_trainers_weights(engine):
    """It was started with others."""
    embedded = TransformersEngine(engine.model, [EOS], max_context=400, allowed_vocab=REAL)
    requests = [request(i, c, 30, Sampling(0.0)) for i, c in enumerate(prompts(8))]
    for ours, theirs in zip(run(embedded, requests), run(engine, requests), strict=True):
        assert ours.ids.tolist() == theirs.ids.tolist() and ours.stop is theirs.stop
        np.testing.assert_allclose(theirs.logp, ours.logp, atol=1e-3, rtol=0)
    assert engine.mismatch < 1e-3


def test_new_weights_replace_the_old_and_their_prefixes(engine):
    context = prompts(1, 4 * BLOCK + 1, 4 * BLOCK + 2, seed=5)[0]
    asked = [request(0, context, 8, Sampling(1.3))]
    assert run(engine, asked)[0].cost.prefilled == len(context)
    assert run(engine, asked)[0].cost.cached == 4 * BLOCK
    engine.model.load_state_dict(narrow(seed=11).state_dict())
    engine.sync(None, engine.policy_version + 1)
    (done,) = run(engine, asked)
    assert done.cost.cached == 0 and done.policy_version == engine.policy_version
    np.testing.assert_allclose(done.logp, scored(engine.model, context, done.ids, 1.3), atol=1e-3, rtol=0)


def test_more_requests_than_live_ones_all_come_back(engine):
    requests = [request(i, c, 6, leaf=i) for i, c in enumerate(prompts(40))]
    assert len(run(engine, requests)) == 40


def test_abort_ends_waiting_and_live_requests(engine):
    engine.submit([request(i, c, 300, Sampling(0.0)) for i, c in enumerate(prompts(20))])
    ended = engine.abort(list(range(20)))
    assert not engine.busy and {done.request for done in ended} == set(range(20))
    assert any(done.stop is Stop.ABORTED for done in ended)
    assert len(run(engine, [request(0, prompts(1)[0], 5)])) == 1


def test_a_longer_context_than_the_server_holds_is_refused(vllm_server):
    with pytest.raises(ConfigError, match="needs 401 positions but the vLLM server .* holds 400"):
        VllmServerEngine(narrow(), [EOS], max_context=401, address=vllm_server)


def test_a_killed_server_stops_the_run_with_the_reason_and_a_new_one_goes_on_with_it(served):
    """Killed as by the system when memory runs out; what is started at its address has none of its weights."""
    model = narrow(seed=5)
    options = {"max_live": 16, "max_context": 400, "allowed_vocab": REAL, "address": served.address}
    asked = [request(i, c, 300, Sampling(0.0)) for i, c in enumerate(prompts(16))]
    engine = VllmServerEngine(model, [EOS], timeout=4, **options)
    engine.submit(asked)
    served.server.process.kill()
    with pytest.raises(RunError, match=rf"vLLM server at {served.address} is gone .*limit 4 s.*laconic serve"):
        while engine.busy:
            engine.step()
    ended = engine.abort([one.id for one in asked])  # what the scheduler does with live requests
    engine.close()
    assert not engine.busy and {done.stop for done in ended} <= {Stop.ABORTED}
    served.server.stop()
    served.start()
    again = VllmServerEngine(model, [EOS], timeout=60, **options)
    embedded = TransformersEngine(model, [EOS], max_context=400, allowed_vocab=REAL)
    for ours, theirs in zip(run(embedded, asked), run(again, asked), strict=True):
        assert ours.ids.tolist() == theirs.ids.tolist()
    again.close()
