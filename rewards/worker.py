"""The process that judges: ``python -m laconic.rewards.worker --verifier exact --memory-gb 2 --parent PID``.

    stdin   {"index": 0, "response": "...", "gold": "7", "verifier": "exact", "truncated": false}     one line per item
    stdout  {"ready": true}                                                                           once
            {"index": 0, "verdict": "right", "extracted": "7", "reason": ""}                          one line per item

Model output drives the verifiers, so anything may happen here: they may hang, crash, print, or eat memory. The pool
kills and replaces this process when it has to. It leaves nothing behind: it ends with its input or with its parent.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import signal
import sys
import traceback
from typing import IO

from ..errors import ConfigError
from .verdict import Item, Judgement, Verdict
from .verifiers import judge_item, self_test

MEMORY_EXIT = 77
"""Exit status of a worker that hit its memory limit."""


def main() -> None:
    """Serve until the input ends."""
    arguments = _arguments()
    _die_with(arguments.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the parent.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(arguments.memory_gb)
    requests, replies = _take_pipes()
    try:
        _introduce(arguments.verifier, replies)
        for line in requests:
            if not line.endswith(b"\n"):
                break  # The parent died while it wrote.
            _send(replies, _judge(json.loads(line)))
    except MemoryError:
        os._exit(MEMORY_EXIT)
    except BrokenPipeError:
        pass
    # A thread that a verifier left running must not keep the process alive.
    os._exit(0)


def _judge(request: dict[str, object]) -> dict[str, object]:
    index = request.pop("index")
    try:
        judgement = judge_item(Item(**request))  # type: ignore[arg-type]
    except MemoryError:
        raise
    except Exception as error:
        # Recorded as an alarm, not passed over: one bad item must not take the others of its batch along.
        kind = f"raised {type(error).__name__}"
        if (request["verifier"], kind) not in _REPORTED:
            _REPORTED.add((request["verifier"], kind))
            print(f"verifier {request['verifier']!r} {kind} on gold {request['gold']!r}:", file=sys.stderr)
            traceback.print_exc()
        judgement = Judgement(Verdict.CRASHED, reason=kind)
    return {
        "index": index,
        "verdict": judgement.verdict,
        "extracted": judgement.extracted,
        "reason": judgement.reason,
    }


_REPORTED: set[tuple[object, str]] = set()
"""(verifier, exception) already explained on stderr; a broken verifier raises on every item."""


def _introduce(verifiers: list[str], replies: IO[bytes]) -> None:
    """Import the verifiers, check their known pairs, and say whether this worker can be used."""
    try:
        faults = [fault for name in verifiers if (fault := self_test(name))]
    except ConfigError as error:
        _send(replies, {"config_error": str(error)})
    except MemoryError:
        raise
    except Exception as error:
        _send(replies, {"fault": f"a verifier raised {type(error).__name__} in the self-test: {error}"})
    else:
        _send(replies, {"fault": faults[0]} if faults else {"ready": True})


def _send(replies: IO[bytes], message: dict[str, object]) -> None:
    # Each line at once: the parent counts an item's time from the reply before it.
    replies.write(json.dumps(message).encode() + b"\n")
    replies.flush()


def _take_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """The pipes to the parent, moved out of reach: verifiers print to stderr and read an empty stdin."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    return requests, replies


def _limit_memory(memory_gb: float) -> None:
    """Have allocations beyond ``memory_gb`` fail. macOS refuses every limit of the address space, so only on Linux."""
    if memory_gb and sys.platform == "linux":
        limit = int(memory_gb * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when ``parent`` ends, however it ends. Elsewhere than on Linux the end of the
    input must do, which a verifier that hangs does not see."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
    if parent and os.getppid() != parent:
        os._exit(0)  # The parent ended before the request was in place.


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m laconic.rewards.worker", description="Judge items from stdin.")
    parser.add_argument("--verifier", action="append", default=[], help="id or module:function, checked at start")
    parser.add_argument("--memory-gb", type=float, default=0.0, help="limit of the address space, GiB; 0 is none")
    parser.add_argument("--parent", type=int, default=0, help="process id to end with; 0 is whoever started this")
    return parser.parse_args()


if __name__ == "__main__":
    main()
