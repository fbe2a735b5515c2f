"""Whoever ends ``laconic serve`` ends the server, which has a session of its own."""

from __future__ import annotations

import signal

import pytest

from laconic.errors import RunError
from laconic.train import serve


class Server:
    """In place of vLLM's."""

    peer, ended = "127.0.0.1:8000", 0

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        Server.ended += 1

    def wait_until_ready(self, seconds):
        return 0.0

    def wait(self):
        return 3


@pytest.fixture
def ended(monkeypatch):
    """How often a server was ended."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(serve, "Server", Server)
    monkeypatch.setattr(Server, "ended", 0)
    yield lambda: Server.ended
    signal.signal(signal.SIGTERM, before)


def test_a_server_that_ends_by_itself_is_an_error(ended):
    with pytest.raises(RunError, match=r"127.0.0.1:8000 ended by itself with status 3"):
        serve.serve_model("tiny-thinker", 8000, max_context=None, max_live=4)
    assert ended() == 1


def test_an_end_by_signal_ends_the_server(ended, monkeypatch):
    monkeypatch.setattr(Server, "wait", lambda self: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit):
        serve.serve_model("tiny-thinker", 8000, max_context=None, max_live=4)
    assert ended() == 1
