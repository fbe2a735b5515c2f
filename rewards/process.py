"""One worker process as its parent sees it: lines out, replies in, and a clock on the item it is at."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, BinaryIO, cast

from .verdict import Item, Judgement, Verdict
from .worker import MEMORY_EXIT

_CHUNK = 1 << 16


class Garbled(Exception):
    """The worker sent something that is no reply: a verifier found its way to the pipe and wrote into it."""


class Worker:
    """A running ``laconic.rewards.worker``. Nothing here blocks except ``kill``, which waits for a killed process."""

    def __init__(self, verifiers: Iterable[str], memory_gb: float | None) -> None:
        command = [sys.executable, "-P", "-m", "laconic.rewards.worker", "--parent", str(os.getpid())]
        command += ["--memory-gb", str(memory_gb or 0)]
        for name in verifiers:
            command += ["--verifier", name]
        # What can be imported here can be imported there, also after changes to sys.path.
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Out of Ctrl-C's reach, and its own children die with it.
        )
        self.requests = cast(BinaryIO, self.process.stdin)
        self.replies = cast(BinaryIO, self.process.stdout)
        for pipe in (self.requests, self.replies):
            os.set_blocking(pipe.fileno(), False)
        self.ready = False
        """Whether it has started and passed the self-test."""
        self.in_flight: deque[int] = deque()
        """Indices of the items it holds, in the order it judges them."""
        self.alone = False
        """Whether it holds one item that failed before, and must get no other."""
        self.since = time.monotonic()
        """When it began to start, or to judge the first of ``in_flight``."""
        self.unsent = memoryview(b"")
        """A view: megabyte answers go out in pieces of a pipe's size, and copying the rest each time would be slow."""
        self._unread = b""

    def send(self, items: Iterable[tuple[int, Item]]) -> None:
        """Queue items and write what the pipe takes."""
        if not self.in_flight:
            self.since = time.monotonic()
        lines: list[bytes | memoryview] = [self.unsent]
        for index, item in items:
            self.in_flight.append(index)
            request = {
                "index": index,
                "response": item.response,
                "gold": item.gold,
                "verifier": item.verifier,
                "truncated": item.truncated,
            }
            lines.append(json.dumps(request).encode() + b"\n")
        self.unsent = memoryview(b"".join(lines))
        self.flush()

    def flush(self) -> None:
        """Write what the pipe takes of the queued lines."""
        try:
            self.unsent = self.unsent[os.write(self.requests.fileno(), self.unsent) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self.unsent = memoryview(b"")  # It is gone; the end of its replies will tell.

    def receive(self) -> tuple[list[dict[str, Any]], bool]:
        """``(replies that have arrived, whether it has ended)``. Raises ``Garbled``."""
        try:
            chunk = os.read(self.replies.fileno(), _CHUNK)
        except BlockingIOError:
            return [], False
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        try:
            replies = [json.loads(line) for line in lines]
        except ValueError as error:
            raise Garbled from error
        if not all(isinstance(reply, dict) for reply in replies):
            raise Garbled
        return replies, not chunk

    def conclude(self, reply: dict[str, Any]) -> tuple[int, Judgement]:
        """The index and the judgement of the item it was at; it is now at the next one. Raises ``Garbled``."""
        try:
            judgement = Judgement(Verdict(reply["verdict"]), reply["extracted"], reply["reason"])
        except (KeyError, ValueError) as error:
            raise Garbled from error
        if not self.in_flight or reply.get("index") != self.in_flight[0]:
            raise Garbled
        self.since = time.monotonic()
        return self.in_flight.popleft(), judgement

    def kill(self) -> str:
        """End it and everything it started; returns how it ended, as a short phrase."""
        # Already gone is fine; macOS says so with EPERM.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        status = self.process.wait()
        self.requests.close()
        self.replies.close()
        if status == MEMORY_EXIT:
            return "memory_limit"
        return f"signal_{signal.Signals(-status).name}" if status < 0 else f"exit_{status}"
