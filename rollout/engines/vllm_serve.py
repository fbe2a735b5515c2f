"""Starts a vLLM server on this machine: what ``laconic serve MODEL`` runs.

The module form, since the ``vllm`` command does not start on the CPU build. Token ids only, and on 127.0.0.1 only: the
endpoints through which a trainer replaces weights ask nobody who they are.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from safetensors.torch import save_file

from ...errors import ConfigError, RunError
from .vllm_heads import widen, wider
from .vllm_http import Peer, Unreachable
from .vllm_version import require_vllm

MODULE = "vllm.entrypoints.openai.api_server"
CPU_BLOCK = 32
CPU_KV_BYTES = 2**30
_STOP_SECONDS = 15.0


class Server:
    """A server process; a context manager that ends it."""

    def __init__(
        self,
        model: Path,
        *,
        port: int = 0,
        max_context: int | None = None,
        max_live: int = 256,
        kv_bytes: int | None = None,
        gpu_memory_utilization: float = 0.9,
        on_gpu: bool = False,
        log: Path | None = None,
    ) -> None:
        """Start it. ``port`` 0 takes a free one; ``log`` None lets it write where this process does.

        Raises ``ConfigError`` for a missing or untested vLLM and for a port that is taken.
        """
        require_vllm()
        self.peer = Peer("127.0.0.1", _free_port(port))
        self.log = log
        self._config = tempfile.TemporaryDirectory(prefix="laconic-serve-")
        served = model if on_gpu else _servable(model, Path(self._config.name))
        self._output: IO[Any] | None = None if log is None else log.open("wb")
        self.command = command(served, self.peer.port, max_context, max_live, kv_bytes, gpu_memory_utilization, on_gpu)
        self.process = subprocess.Popen(
            self.command,
            env=environment(on_gpu),
            stdout=self._output,
            stderr=subprocess.STDOUT if log else None,
            start_new_session=True,
        )

    def wait_until_ready(self, seconds: float) -> float:
        """Wait until it serves; returns how long that took. Raises ``RunError`` when it ends or takes longer."""
        try:
            return self.peer.await_health(seconds, self._check_alive)
        except Unreachable as error:
            raise RunError(
                f"the vLLM server at {self.peer} is not up after {seconds:g} s ({error}){self._tail()}"
            ) from error

    def wait(self) -> int:
        """Wait until it ends; returns its exit status."""
        return self.process.wait()

    def stop(self) -> None:
        """End it and what it started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(_STOP_SECONDS)
            except ProcessLookupError:
                break  # all of the group have ended
            except subprocess.TimeoutExpired:
                continue
        self.process.wait()
        self._config.cleanup()
        if self._output is not None:
            self._output.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _check_alive(self) -> None:
        status = self.process.poll()
        if status is not None:
            raise RunError(f"the vLLM server at {self.peer} ended with status {status}{self._tail()}")

    def _tail(self) -> str:
        if self.log is None or not self.log.exists():
            return "; see its output above"
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        telling = [line for line in lines if "Error" in line] or lines
        return f"; {self.log} ends with: " + " | ".join(telling[-3:])[-800:]


def _servable(model: Path, folder: Path) -> Path:
    """What a server on a CPU loads: the model, or one with wider heads in ``folder``.

    With its weights: vLLM reloads from files only what it has loaded from files.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model)
    served = wider(config)
    if served is config:
        return model
    served.save_pretrained(folder)
    weights = widen(AutoModelForCausalLM.from_pretrained(model).state_dict(), config)
    save_file({name: tensor.clone().contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    return folder


def command(
    model: Path,
    port: int,
    max_context: int | None,
    max_live: int,
    kv_bytes: int | None,
    gpu_memory_utilization: float,
    on_gpu: bool,
) -> list[str]:
    """The command line of the server."""
    options: dict[str, object] = {
        "--model": model,
        "--served-model-name": "policy",
        "--host": "127.0.0.1",
        "--port": port,
        "--dtype": "bfloat16" if on_gpu else "float32",
        "--max-num-seqs": max_live,
        "--max-num-batched-tokens": max(8192, max_live),
        "--logprobs-mode": "processed_logprobs",
        "--generation-config": "vllm",
        "--uvicorn-log-level": "warning",
    }
    if max_context:
        options["--max-model-len"] = max_context
    if not on_gpu:
        options |= {"--block-size": CPU_BLOCK, "--kv-cache-memory-bytes": kv_bytes or CPU_KV_BYTES}
    elif kv_bytes:
        options["--kv-cache-memory-bytes"] = kv_bytes
    else:
        options["--gpu-memory-utilization"] = gpu_memory_utilization
    flags = ["--tokens-only", "--enable-prompt-tokens-details", "--enable-prefix-caching", "--enforce-eager"]
    return [sys.executable, "-m", MODULE, *(str(word) for pair in options.items() for word in pair), *flags]


def environment(on_gpu: bool) -> dict[str, str]:
    """The server's environment: weight endpoints on, no reports home, threads as in this process."""
    own = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    if not on_gpu:
        # bound to cores, it would fight with the trainer for the first ones
        own["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    fixed = {"VLLM_SERVER_DEV_MODE": "1"}
    kept = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    return own | kept | fixed


def _free_port(wanted: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise ConfigError(f"port {wanted} on 127.0.0.1 is taken ({error.strerror}); give another --port") from error
        return int(probe.getsockname()[1])
