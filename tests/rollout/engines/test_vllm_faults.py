"""A server that dies, comes back or breaks off: the reason and the peer are named, within the timeout."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from vllm_models import EOS, make, request, run

from laconic.errors import RunError
from laconic.rollout.engines.vllm_server import VllmServerEngine
from laconic.rollout.engines.weights import complete_state

FAKE = Path(__file__).with_name("fake_vllm.py")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Peer:
    """A stand-in for the server, in a process that can be killed."""

    def __init__(self):
        self.port, self.process = free_port(), None

    def start(self, seconds):
        self.process = subprocess.Popen([sys.executable, str(FAKE), str(self.port), str(seconds)])

    def kill(self):
        self.process.kill()
        self.process.wait()

    def engine(self, **options):
        model = make(True)
        engine = VllmServerEngine(model, [EOS], max_live=4, address=f"127.0.0.1:{self.port}", **options)
        engine.sync(complete_state(model), 1)
        return engine


@pytest.fixture
def peer():
    peer = Peer()
    yield peer
    if peer.process is not None:
        peer.kill()


def test_no_server_is_named_with_what_starts_one(peer):
    with pytest.raises(RunError, match=f"no vLLM server answers at 127.0.0.1:{peer.port} within .*laconic serve"):
        VllmServerEngine(make(True), [EOS], address=f"127.0.0.1:{peer.port}", timeout=0.3)


def test_a_server_killed_in_mid_batch_stops_the_run_with_the_reason_within_its_timeout(peer):
    peer.start(30)
    engine = peer.engine(timeout=3)
    engine.submit([request(i, [5, 6], 4) for i in range(6)])
    assert engine.step() == []
    peer.kill()
    start = time.monotonic()
    with pytest.raises(
        RunError, match=f"vLLM server at 127.0.0.1:{peer.port} is gone .*refused.*limit 3 s.; 6 calls were open"
    ):
        while engine.busy:
            engine.step()
    assert time.monotonic() - start < 3 + 10
    assert {done.request for done in engine.abort(list(range(6)))} <= set(range(6))
    engine.close()


def test_a_server_that_comes_back_gets_its_weights_and_the_open_calls_again(peer):
    peer.start(30)
    engine = peer.engine(timeout=60)
    engine.submit([request(i, [5, 6], 4) for i in range(6)])
    peer.kill()
    peer.start(0)
    pushed = []
    engine._push = lambda push=engine._push: pushed.append(push())
    done = []
    while engine.busy:
        done += engine.step()
    assert sorted(d.request for d in done) == list(range(6)) and [d.ids.tolist() for d in done] == [[4] * 4] * 6
    engine.close()


def test_a_call_that_breaks_off_is_repeated(peer):
    peer.start(0)
    engine = peer.engine(timeout=60)
    (done,) = run(engine, [request(0, [99, 6], 3)])
    assert done.ids.tolist() == [4, 4, 4] and done.cost.cached == 1
    engine.close()
