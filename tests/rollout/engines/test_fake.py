"""The scripted engine keeps the protocol."""

import numpy as np
import pytest

from laconic.rollout.engines.fake import ScriptedEngine
from laconic.rollout.engines.protocol import NoiseKey, Request, Sampling
from laconic.rollout.records import Stop


def request(index, context, max_tokens=5, leaf=0):
    return Request(index, np.array(context, np.int32), max_tokens, Sampling(), NoiseKey(0, 0, 0, leaf))


def test_it_decodes_one_token_of_every_live_request_per_step():
    engine = ScriptedEngine({(1,): [[2, 3], [4]]}, max_live=2)
    engine.submit([request(0, [1]), request(1, [1], leaf=1), request(2, [1], max_tokens=1)])
    ended = [[completion.request for completion in engine.step()] for _ in range(3)]
    assert ended == [[], [1], [0, 2]] and not engine.busy


def test_costs_and_log_probs_are_exact():
    engine = ScriptedEngine({(1, 2): [[5, 6]]})
    engine.submit([request(0, [1, 2]), request(1, [1, 2])])
    done = [completion for _ in range(3) for completion in engine.step()]
    assert [completion.ids.tolist() for completion in done] == [[5, 6, 0]] * 2
    assert done[0].logp.tolist() == [-0.125, -0.25, -0.375]
    assert [(c.cost.prefilled, c.cost.cached, c.cost.decoded, c.cost.kv_read) for c in done] == [
        (2, 0, 3, 9),
        (0, 2, 3, 9),
    ]


def test_abort_sync_and_refusals():
    engine = ScriptedEngine(lambda context, request: [3] * 9, max_live=1)
    engine.submit([request(0, [1]), request(1, [1])])
    engine.step()
    with pytest.raises(RuntimeError, match="live"):
        engine.sync(None, 1)
    ended = engine.abort([0, 1])
    assert [(c.request, len(c.ids), c.stop) for c in ended] == [(0, 1, Stop.ABORTED), (1, 0, Stop.ABORTED)]
    engine.sync(None, 1)
    assert engine.policy_version == 1 and not engine.busy
    for bad in (request(0, []), request(0, [1], 0), request(0, [1], 1024)):
        with pytest.raises(ValueError):
            engine.submit([bad])
    table = ScriptedEngine({(1,): [[2]]})
    table.submit([request(0, [9])])
    with pytest.raises(KeyError, match="no completion is scripted"):
        table.step()
