"""vLLM in a process of its own on this machine, started by ``laconic serve MODEL``; this is the trainer's end.

    submit ──> POST /inference/v1/generate, one per request (token ids in and out)
    step   ──> wait for answers; while none comes, ask /health
    sync   ──> complete weights as safetensors in shared memory ──> reload_weights ──> reset_prefix_cache ──> probe

A call is seeded by its noise key, so sending it again after a broken connection asks for the same tokens. A server that
stays away longer than ``timeout`` ends the run with the reason. One that comes back in time has lost its weights: it
gets the last ones again before the open calls are repeated.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ...errors import ConfigError, RunError
from .probe import ROUGH, TOLERANCE, probe
from .protocol import Completion, Request
from .vllm_heads import widen
from .vllm_http import HEALTH_SECONDS, Peer, Unreachable
from .vllm_request import Terms
from .vllm_version import check_release
from .weights import check_complete, complete_state

_POLL = 2.0
"""Seconds without an answer after which the server's health is looked at."""
_SHARED_MEMORY = Path("/dev/shm")
_RETRIES = 3


class VllmServerEngine:
    """Decodes requests on a vLLM server; implements ``Engine``."""

    def __init__(
        self,
        model: nn.Module,
        eos_ids: Sequence[int],
        *,
        max_live: int = 256,
        max_context: int | None = None,
        allowed_vocab: int | None = None,
        address: str = "127.0.0.1:8000",
        timeout: float = 60.0,
        tolerance: float | None = None,
    ) -> None:
        """``model``: the trainer's causal LM, the source of weights and probes. ``address``: of ``laconic serve``.

        ``timeout``: seconds a server may be unreachable before the run stops. ``tolerance``: largest difference of
        log-probs, in nats, between server and trainer; by default 1e-3 for a float32 model on the CPU and 0.25
        where the model, or a server on a GPU, computes in 16 bits.

        Raises ``RunError`` when no server answers within ``timeout`` and ``ConfigError`` for one that does not fit.
        """
        self.model, self.max_live, self.timeout, self.peer = model, max_live, timeout, Peer.parse(address)
        try:
            self.peer.await_health(timeout)
            check_release(self.peer.call("GET", "/version", timeout=timeout)["version"], f"the server at {self.peer}")
            served = self.peer.call("GET", "/v1/models", timeout=timeout)["data"][0]
        except Unreachable as error:
            raise RunError(
                f"no vLLM server answers at {self.peer} within {timeout:g} s ({error}); start one: laconic serve MODEL"
            ) from error
        positions = int(served["max_model_len"])
        self.max_context = positions if max_context is None else max_context
        if self.max_context > positions:
            raise ConfigError(
                f"the run needs {max_context} positions but the vLLM server at {self.peer} holds {positions}; "
                f"start it with --max-context {max_context}"
            )
        self.terms = Terms.of(model, eos_ids, allowed_vocab, max_live, self.max_context)
        first = next(model.parameters())
        exact = first.device.type == "cpu" and first.dtype is torch.float32
        self.tolerance = tolerance if tolerance is not None else TOLERANCE if exact else ROUGH
        self.policy_version = 0
        self.synced = False
        self.mismatch = 0.0
        """What the last probe measured, in nats."""
        where = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
        self._owner = tempfile.TemporaryDirectory(prefix="laconic-weights-", dir=where)
        self._folder = Path(self._owner.name)
        self._threads = ThreadPoolExecutor(max_live, thread_name_prefix="vllm-call")
        self._queue: deque[Request] = deque()
        self._calls: dict[Future[Any], Request] = {}
        self._tries: dict[int, int] = {}

    @property
    def busy(self) -> bool:
        """Whether a request is queued or live."""
        return bool(self._queue or self._calls)

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests in order. Raises ``ConfigError`` for a request that can never run."""
        for request in requests:
            self.terms.limits.check(request)
        if requests and not self.synced:
            self.sync(None, self.policy_version)
        self._queue.extend(requests)
        self._send()

    def step(self) -> list[Completion]:
        """Wait until answers are there, at most some seconds; raises ``RunError`` when the server is gone."""
        self._send()
        done, _ = wait(self._calls, timeout=_POLL, return_when=FIRST_COMPLETED)
        completions, broken = [], []
        for future in done:
            request = self._calls.pop(future)
            try:
                completions.append(self._read(request, future.result()))
            except Unreachable as error:
                broken.append((request, error))
        if broken or not done:
            self._recover(broken)
        self._send()
        return completions

    def abort(self, requests: Sequence[int]) -> list[Completion]:
        """End requests now, with the tokens they have; unknown ids are ignored."""
        doomed = set(requests)
        ended = [
            self.terms.completion(request, [], [], 0, self.policy_version, aborted=True)
            for request in self._queue
            if request.id in doomed
        ]
        self._queue = deque(request for request in self._queue if request.id not in doomed)
        live = {future: request for future, request in self._calls.items() if request.id in doomed}
        for future in live:
            del self._calls[future]
        try:
            if live:
                names = [f"generate-tokens-{self._name(request)}" for request in live.values()]
                self.peer.call("POST", "/abort_requests", {"request_ids": names}, timeout=self.timeout)
            wait(live, timeout=self.timeout)
        except (Unreachable, RunError):
            pass  # a server that is gone has ended them; what waits for it learns of that by itself
        for future, request in live.items():
            try:
                ended.append(self._read(request, future.result(timeout=0), aborted=True))
            except (Unreachable, RunError, TimeoutError):
                ended.append(self.terms.completion(request, [], [], 0, self.policy_version, aborted=True))
        return ended

    def sync(self, weights: Mapping[str, Tensor] | None, version: int) -> None:
        """Send new weights (None: those the trainer's model has now), drop the prefix cache, and probe.

        Raises ``RuntimeError`` while requests are live, ``DataError`` for incomplete weights, ``RunError`` when the
        server does not take them, keeps its cache, or decodes with other weights than the trainer's.
        """
        if self.busy:
            live = len(self._queue) + len(self._calls)
            raise RuntimeError(f"{live} requests are live; finish or abort them before new weights come")
        if version < self.policy_version:
            raise ValueError(f"version is {version} but the engine has {self.policy_version}; versions only rise")
        own = weights is None
        if weights is None:
            weights = complete_state(self.model)
        else:
            check_complete(self.model, weights)
        if next(self.model.parameters()).device.type == "cpu":
            weights = widen(dict(weights), self.model.config)
        # aliases of tied tensors are written out: a loader that misses one keeps the old weights and says nothing
        copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
        save_file(copies, self._folder / "model.safetensors")
        try:
            self._push()
        except Unreachable as error:
            raise self._gone(error) from error
        self.policy_version, self.synced = version, True
        if own:
            self.mismatch = probe(self, self.model, self.terms.allowed_vocab, self.tolerance)

    def close(self) -> None:
        """Forget the weights' copy; the server goes on."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._owner.cleanup()

    def _push(self) -> None:
        reload = {"method": "reload_weights", "kwargs": {"weights_path": str(self._folder)}}
        self.peer.call("POST", "/collective_rpc", reload, timeout=max(self.timeout, 600.0))
        if not self.peer.call("POST", "/reset_prefix_cache", timeout=self.timeout)["success"]:
            raise RunError(
                f"the vLLM server at {self.peer} could not drop its prefix cache, so prefixes of the old policy would "
                "be read again; does another program use it?"
            )

    def _send(self) -> None:
        while self._queue and len(self._calls) < self.max_live:
            request = self._queue.popleft()
            self._tries[request.id] = self._tries.get(request.id, 0) + 1
            body = {
                "request_id": self._name(request),
                "token_ids": request.context.tolist(),
                "sampling_params": {k: v for k, v in self.terms.sampling_params(request).items() if v is not None},
            }
            # a call lasts as long as its tokens do; whether the server lives is asked at /health
            call = self._threads.submit(self.peer.call, "POST", "/inference/v1/generate", body, timeout=24 * 3600.0)
            self._calls[call] = request

    def _name(self, request: Request) -> str:
        return f"{self._folder.name}-{self.policy_version}-{request.id}-{self._tries.get(request.id, 0)}"

    def _read(self, request: Request, answer: Any, aborted: bool = False) -> Completion:
        choice = answer["choices"][0]
        self._tries.pop(request.id, None)
        if choice["finish_reason"] not in ("stop", "length", "abort") or (
            choice["finish_reason"] == "abort" and not aborted
        ):
            raise RunError(f"the vLLM server at {self.peer} ended request {request.id}: {choice['finish_reason']!r}")
        ids = choice["token_ids"] or []
        logp = [entry["logprob"] for entry in (choice["logprobs"] or {"content": []})["content"]]
        details = (answer.get("usage") or {}).get("prompt_tokens_details") or {}
        return self.terms.completion(
            request, ids, logp, details.get("cached_tokens") or 0, self.policy_version, aborted=aborted
        )

    def _recover(self, broken: list[tuple[Request, Unreachable]]) -> None:
        """Look at the server's health; repeat broken calls, or raise ``RunError`` when it stays away."""
        for request, error in broken:
            if self._tries[request.id] > _RETRIES:
                raise RunError(
                    f"the vLLM server at {self.peer} broke off request {request.id} {self._tries[request.id]} times "
                    f"({error}); see its log"
                ) from error
        self._queue.extendleft(request for request, _ in reversed(broken))
        try:
            self.peer.call("GET", "/health", timeout=min(HEALTH_SECONDS, self.timeout))
        except (Unreachable, RunError) as error:
            start = time.monotonic()
            try:
                self.peer.await_health(self.timeout)
                self._push()
            except Unreachable as last:
                reason = Unreachable(f"{last}; first: {broken[0][1] if broken else error}")
                raise self._gone(reason, time.monotonic() - start) from last

    def _gone(self, reason: Unreachable, seconds: float = 0.0) -> RunError:
        lost = len(self._calls) + len(self._queue)
        return RunError(
            f"the vLLM server at {self.peer} is gone ({reason}), and stayed away for {max(seconds, 0):.0f} s "
            f"(limit {self.timeout:g} s); {lost} calls were open. See its log, start it again with `laconic serve "
            "MODEL`, and start the same command again to go on"
        )
