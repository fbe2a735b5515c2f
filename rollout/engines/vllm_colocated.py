"""vLLM in the trainer's process. The only file that imports vllm.

    submit ──> LLMEngine.add_request          step ──> LLMEngine.step ──> what finished ──> Completion
    sync   ──> reload_weights (complete state_dict) ──> reset_prefix_cache (must succeed) ──> probe
               or, of a model with LoRA layers, its adapter alone (``vllm_adapter``)

Continuous batching, prefix cache and sampling are vLLM's own; one ``step`` here is one of its, so a scheduler can
interleave groups. vLLM starts from the model's configuration alone, with dummy weights: all weights come by ``sync``,
but for an adapter's frozen base, which comes with the configuration. On a GPU the same code runs with the memory share
``gpu_memory_utilization``. Tensor parallelism is not supported.
"""

from __future__ import annotations

import copy
import logging
import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ConfigError, RunError
from .limits import context_limit, kv_bytes_per_token
from .probe import ROUGH, TOLERANCE, probe
from .protocol import Completion, Request
from .vllm_adapter import adapter_rank, engine_rank, write_adapter, write_base
from .vllm_heads import widen, wider
from .vllm_request import Terms
from .vllm_version import require_vllm
from .weights import check_complete, complete_state

ENVIRONMENT = {
    # The engine core runs in this process: weights are handed over as tensors, and nothing is left behind.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
"""Read by vLLM when it starts; a value given from outside stays, the first one's excepted."""
CPU_BLOCK = 32
"""Tokens of a KV block on a CPU. vLLM's own choice there is 128, so that short contexts would never share a prefix."""
_SHARED_MEMORY = Path("/dev/shm")
CPU_KV_BYTES = 4 * 2**30
"""Most KV memory taken on a CPU unless told otherwise; sequences that find no room wait."""


class VllmEngine:
    """Decodes requests with vLLM on a copy of ``model``'s weights; implements ``Engine``."""

    def __init__(
        self,
        model: nn.Module,
        eos_ids: Sequence[int],
        *,
        max_live: int = 256,
        max_context: int | None = None,
        allowed_vocab: int | None = None,
        kv_bytes: int | None = None,
        gpu_memory_utilization: float = 0.3,
        block_size: int | None = None,
        tensor_parallel: int = 1,
    ) -> None:
        """``model``: the trainer's causal LM, possibly with LoRA layers; the source of weights and probes.

        ``eos_ids``, ``max_live``, ``max_context``, ``allowed_vocab``, ``kv_bytes``: as for the embedded engine.
        ``gpu_memory_utilization``: share of a GPU's memory, when ``kv_bytes`` is not given. ``block_size``: tokens that
        the prefix cache shares or does not share together; by default 32 on a CPU and vLLM's choice on a GPU.

        Raises ``ConfigError`` for a missing or untested vLLM, and for limits that cannot work.
        """
        if tensor_parallel > 1:
            raise ConfigError(
                f"tensor_parallel is {tensor_parallel} but vLLM beside the trainer supports 1 only: each rank would "
                "schedule on its own; use rollout.engine=vllm_server"
            )
        require_vllm()
        self.model, self.max_live = model, max_live
        self.max_context = context_limit(model.config, max_context)
        self.terms = Terms.of(model, eos_ids, allowed_vocab, max_live, self.max_context)
        self.policy_version = 0
        self.synced = False
        """Whether weights have come; the engine starts with dummies."""
        self.mismatch = 0.0
        """What the last probe measured, in nats."""
        self._live: dict[str, tuple[Request, str]] = {}
        device = next(model.parameters()).device
        self._on_cpu = device.type == "cpu"
        self.dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        self.tolerance = TOLERANCE if {self.dtype, next(model.parameters()).dtype} == {torch.float32} else ROUGH
        memory: dict[str, Any] = {"gpu_memory_utilization": gpu_memory_utilization}
        token = kv_bytes_per_token(served_config(model), model) * self.dtype.itemsize
        token //= next(model.parameters()).element_size()
        if device.type == "cpu":
            block_size = block_size or CPU_BLOCK
            wanted = (max_live + 1) * (self.max_context + block_size) * token
            kv_bytes = kv_bytes or min(max(wanted, 2**26), CPU_KV_BYTES)
        if kv_bytes:
            _check_room(self.max_context, block_size or CPU_BLOCK, token, kv_bytes)
            memory["kv_cache_memory_bytes"] = kv_bytes
        if block_size:
            memory["block_size"] = block_size
        self._rank = adapter_rank(model)
        self._adapter: Any = None
        self._adapters = 0
        where = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
        self._folder = tempfile.TemporaryDirectory(prefix="laconic-adapter-", dir=where)
        dtype = str(self.dtype).removeprefix("torch.")
        self._engine = _start(model, self.max_context, max_live, dtype, memory, self._rank)
        self._layers: set[str] = set().union(*self._engine.apply_model(_kinds_with_weights))

    @property
    def busy(self) -> bool:
        """Whether a request is queued or live."""
        return bool(self._live)

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests in order. Raises ``ConfigError`` for a request that can never run."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        for request in requests:
            self.terms.limits.check(request)
        if requests and not self.synced:
            self.sync(None, self.policy_version)
        for request in requests:
            params = SamplingParams(
                **self.terms.sampling_params(request), output_kind=RequestOutputKind.FINAL_ONLY, flat_logprobs=True
            )
            prompt = {"prompt_token_ids": request.context.tolist()}
            inner = self._engine.add_request(str(request.id), prompt, params, lora_request=self._adapter)
            self._live[str(request.id)] = (request, inner)

    def step(self) -> list[Completion]:
        """One step of vLLM: a token for every running sequence, or a stretch of prefill for new ones."""
        if not self._live:
            return []
        finished = []
        for output in self._engine.step():
            if not output.finished:
                continue
            request, _ = self._live.pop(output.request_id)
            answer = output.outputs[0]
            if answer.finish_reason not in ("stop", "length"):
                raise RunError(
                    f"vLLM ended request {request.id} after {len(answer.token_ids)} tokens with "
                    f"{answer.finish_reason!r}; see its log above (VLLM_LOGGING_LEVEL=INFO says more)"
                )
            finished.append(
                self.terms.completion(
                    request, answer.token_ids, answer.logprobs.logprobs, output.num_cached_tokens, self.policy_version
                )
            )
        return finished

    def abort(self, requests: Sequence[int]) -> list[Completion]:
        """End requests now, with the tokens they have; unknown ids are ignored."""
        ended = []
        for name in (str(request) for request in requests if str(request) in self._live):
            request, inner = self._live.pop(name)
            state = self._engine.output_processor.request_states.get(inner)
            ids = list(state.detokenizer.output_token_ids) if state else []
            logp = list(state.logprobs_processor.logprobs.logprobs) if state else []
            cached = state.num_cached_tokens if state else 0
            self._engine.abort_request([name])
            ended.append(self.terms.completion(request, ids, logp, cached, self.policy_version, aborted=True))
        return ended

    def sync(self, weights: Mapping[str, Tensor] | None, version: int) -> None:
        """Take new weights (None: those the trainer's model has now), drop the prefix cache, and probe.

        Raises ``RuntimeError`` while requests are live, ``DataError`` for incomplete weights, and ``RunError`` when
        vLLM left a tensor unloaded, kept its cache, or decodes with other weights than the trainer's. A model with an
        adapter takes None only (``ValueError``).
        """
        if self._live:
            raise RuntimeError(f"{len(self._live)} requests are live; finish or abort them before new weights come")
        if version < self.policy_version:
            raise ValueError(f"version is {version} but the engine has {self.policy_version}; versions only rise")
        own = weights is None
        if self._rank and not own:
            raise ValueError("this engine holds the model's frozen base, and takes the model's own adapter only")
        if self._rank:
            self._load_adapter()
        elif weights is None:
            self._load(complete_state(self.model))
        else:
            check_complete(self.model, weights)
            self._load(weights)
        self._drop_caches()
        self.policy_version, self.synced = version, True
        if own:
            self.mismatch = probe(self, self.model, self.terms.allowed_vocab, self.tolerance)

    def close(self) -> None:
        """Give the memory back; the engine is of no use afterwards."""
        self._engine.engine_core.shutdown()
        self._folder.cleanup()

    def _load(self, weights: Mapping[str, Tensor]) -> None:
        # vLLM reports success and only logs what it left out
        with _complaints() as complaints:
            served = widen(dict(weights), self.model.config) if self._on_cpu else weights
            iterator = [(name, tensor.detach()) for name, tensor in served.items()]
            self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iterator})
        lost = [line for line in complaints if _is_loss(line, self._layers)]
        if lost:
            raise RunError(f"vLLM did not load all weights: {'; '.join(lost)}; the old ones would go on decoding")

    def _load_adapter(self) -> None:
        from vllm.lora.request import LoRARequest

        before, self._adapters = self._adapter, self._adapters + 1
        folder = Path(self._folder.name) / str(self._adapters)
        write_adapter(self.model, folder, wide=self._on_cpu)
        # the name is part of the prefix cache's keys
        self._adapter = LoRARequest(f"policy-{self._adapters}", self._adapters, str(folder))
        if not self._engine.add_lora(self._adapter):
            raise RunError("vLLM did not take the adapter; the one before it would go on decoding")
        if before is not None:
            self._engine.remove_lora(before.lora_int_id)
            shutil.rmtree(before.lora_path)

    def _drop_caches(self) -> None:
        if not self._engine.reset_prefix_cache():
            raise RunError("vLLM could not drop its prefix cache, so prefixes of the old policy would be read again")


def served_config(model: nn.Module) -> Any:
    """The configuration vLLM is started with; on a CPU its heads may have to be wider."""
    return wider(model.config) if next(model.parameters()).device.type == "cpu" else model.config


def _check_room(tokens: int, block: int, token_bytes: int, kv_bytes: int) -> None:
    """One sequence must fit; of several that do not, vLLM lets some wait. One block more is vLLM's own."""
    blocks = -(-tokens // block) + 1
    needed = blocks * block * token_bytes
    if needed > kv_bytes:
        raise ConfigError(
            f"one sequence of {tokens} tokens needs {blocks} blocks of {block} x {token_bytes:,} B = {needed:,} B of "
            f"KV but kv_bytes is {kv_bytes:,}; raise rollout.kv_gb or lower rollout.max_completion"
        )


def _start(
    model: nn.Module, max_context: int, max_live: int, dtype: str, memory: dict[str, Any], rank: int | None
) -> Any:
    """An ``LLMEngine`` for ``model``'s architecture: with dummy weights, or with the base of an adapter of ``rank``."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = ENVIRONMENT["VLLM_ENABLE_V1_MULTIPROCESSING"]
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _as_it_was(), tempfile.TemporaryDirectory(prefix="laconic-vllm-") as folder:
        from vllm import EngineArgs, LLMEngine

        config = copy.deepcopy(served_config(model))
        if config.model_type == model.config.model_type:
            config.architectures = [type(model).__name__]
        config.save_pretrained(folder)
        adapter: dict[str, Any] = {"load_format": "dummy"}
        if rank:
            write_base(model, Path(folder), wide=next(model.parameters()).device.type == "cpu")
            adapter = {"enable_lora": True, "max_lora_rank": engine_rank(rank), "max_loras": 1, "max_cpu_loras": 1}
        try:
            return LLMEngine.from_engine_args(
                EngineArgs(
                    model=folder,
                    skip_tokenizer_init=True,
                    dtype=dtype,
                    max_model_len=max_context,
                    max_num_seqs=max_live,
                    max_num_batched_tokens=max(8192, max_live),
                    enable_prefix_caching=True,
                    enforce_eager=True,
                    logprobs_mode="processed_logprobs",
                    disable_log_stats=True,
                    generation_config="vllm",
                    **memory,
                    **adapter,
                )
            )
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise ConfigError(
                f"vLLM cannot start with max_context {max_context}, max_live {max_live} and {memory}: {error}"
            ) from error


@contextmanager
def _as_it_was() -> Iterator[None]:
    """vLLM seeds every global generator and takes ``torch.set_num_threads`` away; here the trainer lives on."""
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collects the warnings of vLLM's loggers, which are not printed."""
    found: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    logger = logging.getLogger("vllm")
    level, handlers = logger.level, logger.handlers
    logger.handlers = [Listener(logging.WARNING)]
    logger.setLevel(logging.WARNING)
    try:
        yield found
    finally:
        logger.setLevel(level)
        logger.handlers = handlers


def _is_loss(line: str, layers: set[str]) -> bool:
    """Whether a warning says that weights were not loaded: of the whole model, or of a layer that has any."""
    layer, failed, _ = line.partition(": Failed to load weights")
    return layer in layers if failed else "not loaded from checkpoint" in line


def _kinds_with_weights(model: nn.Module) -> set[str]:
    """Classes of vLLM's layers that own parameters; others have computed tables only, which no checkpoint holds."""
    return {type(module).__name__ for module in model.modules() if any(True for _ in module.parameters(recurse=False))}
