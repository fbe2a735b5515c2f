"""Talking to a vLLM server on this machine: small JSON calls, and errors that name the peer."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any

from ...errors import ConfigError, RunError

HEALTH_SECONDS = 5.0
"""A server that is alive answers ``/health`` sooner."""


class Unreachable(Exception):
    """The peer did not answer: refused, reset or timed out."""


@dataclass(frozen=True)
class Peer:
    """A server's address."""

    host: str
    port: int

    @classmethod
    def parse(cls, address: str) -> Peer:
        """From ``host:port``. Raises ``ConfigError``; endpoints that change weights are offered on loopback only."""
        host, _, port = address.rpartition(":")
        if host not in ("127.0.0.1", "localhost") or not port.isdigit():
            raise ConfigError(
                f"the vLLM server's address is {address!r} but must be 127.0.0.1:PORT: who reaches it can replace "
                "its weights; start it on this machine with `laconic serve MODEL`"
            )
        return cls("127.0.0.1", int(port))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def call(self, method: str, path: str, body: Any = None, *, timeout: float) -> Any:
        """One call; returns the decoded answer. Raises ``Unreachable``, or ``RunError`` for a status other than 200."""
        connection = HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, HTTPException) as error:
            raise Unreachable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error
        finally:
            connection.close()
        if answer.status != 200:
            raise RunError(f"the vLLM server at {self} answered {method} {path} with {answer.status}: {text[:500]!r}")
        return json.loads(text) if text else None

    def await_health(self, seconds: float, alive: Any = lambda: None) -> float:
        """Wait until the server is healthy; returns for how long. ``alive`` raises when waiting has become useless.

        Raises ``Unreachable`` with the last reason.
        """
        start = time.monotonic()
        while True:
            alive()
            try:
                self.call("GET", "/health", timeout=min(HEALTH_SECONDS, max(seconds, 0.1)))
                return time.monotonic() - start
            except (Unreachable, RunError) as error:
                if time.monotonic() - start >= seconds:
                    raise Unreachable(str(error)) from error
            time.sleep(0.2)
