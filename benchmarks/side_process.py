"""One side of a comparison in a process of its own, started with the environment it needs.

    SideProcess(make, environment)("seconds", work)   ->   make().seconds(work), over there

What a library reads when it is loaded (OpenMP's variables, a preloaded allocator) and what it changes for good (thread
binding, patched functions) then stays with its side. A side that is not asked sleeps.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any


class SideFailed(Exception):
    """A side raised or ended; the text has its traceback."""


class SideProcess:
    """An object in another process whose methods can be called here."""

    def __init__(self, make: Callable[[], Any], environment: Mapping[str, str]) -> None:
        """``make``: a module's function or class, or a ``partial`` of one; called over there, first of all."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(make, theirs), daemon=True)
        with _environment(environment):
            self._process.start()
        theirs.close()
        self._receive()

    def __call__(self, method: str, *arguments: Any) -> Any:
        """The result of ``method``. Raises ``SideFailed`` with what went wrong over there."""
        self._pipe.send((method, arguments))
        return self._receive()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _receive(self) -> Any:
        try:
            worked, answer = self._pipe.recv()
        except EOFError:
            self._process.join(10)
            raise SideFailed(f"the side's process ended with exit code {self._process.exitcode}") from None
        if not worked:
            raise SideFailed(answer)
        return answer


def _serve(make: Callable[[], Any], pipe: Connection) -> None:
    """Answer calls until the other end closes."""
    try:
        side = make()
        pipe.send((True, None))
        while True:
            method, arguments = pipe.recv()
            pipe.send((True, getattr(side, method)(*arguments)))
    except EOFError:
        sys.exit(0)
    except Exception:
        pipe.send((False, traceback.format_exc()))


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
