"""``laconic serve``: a vLLM server for a model by name, until Ctrl-C."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from rich.console import Console

from ..errors import RunError
from ..rollout.engines.vllm_serve import Server
from .model_files import check_model_folder, resolve_model
from .ranks import on_gpu

START_SECONDS = 1800.0
"""Weights of a large model take a while to load."""


def serve_model(model: str, port: int, *, max_context: int | None, max_live: int) -> None:
    """Start the server, say where it is, and wait for its end.

    Raises ``ConfigError`` for a missing or untested vLLM or a taken port, ``DataError`` for no such model, and
    ``RunError`` when the server ends by itself.
    """
    location = resolve_model(model)
    check_model_folder(location)
    console = Console(highlight=False, stderr=True)
    # the server has a session of its own: whoever ends this process means it, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with Server(
        Path(location),
        port=port,
        max_context=max_context,
        max_live=max_live,
        on_gpu=on_gpu(),
    ) as server:
        console.print(f"starting vLLM with {model} on {server.peer}")
        seconds = server.wait_until_ready(START_SECONDS)
        console.print(f"ready after {seconds:.0f} s; train with rollout.engine=vllm_server. Ctrl-C ends it")
        sys.stderr.flush()
        status = server.wait()
    raise RunError(f"the vLLM server at {server.peer} ended by itself with status {status}; see its output above")
