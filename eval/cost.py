"""What a response costs to run, from the model's size and the machine's data sheet alone.

    tri(n, s)   = n*s + n*(n+1)/2                     positions attended by n new tokens after s cached ones
    F_prefill   = n*lin + m*head + a*tri(n, s)        m = positions whose logits are needed
    F_decode    = n*(lin + head) + a*tri(n, s)
    step        = t0 + max(B*(lin+head)/Pi, W/beta) + max(a*sum c/Pi, kappa*sum c/beta)       "two_block"

A response of R tokens costs R-1 decode steps: its first token comes from the logits of the prefill. Linear layers and
attention are added because they do not overlap; inside each, the slower of compute (Pi, FLOP/s) and memory (beta,
bytes/s) rules. Softmax, norms and activations (under 1 %) are left out. FLOPs, bytes, latency and GPU-seconds are
separate axes: halving the tokens more than halves the GPU-seconds, since KV reads grow with the square.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError
from .hardware import Hardware
from .model_spec import ModelSpec

# Shapes: N responses. Every function takes numbers or (N,) arrays for n, s, P and R.

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Roofline = Literal["two_block", "whole"]


def tri(n: ArrayLike, s: ArrayLike) -> Any:
    """Positions attended by ``n`` new tokens after ``s`` cached ones, themselves included; int64, exact."""
    n_N, s_N = np.asarray(n, np.int64), np.asarray(s, np.int64)
    return n_N * s_N + n_N * (n_N + 1) // 2


def attended(spec: ModelSpec, n: ArrayLike, s: ArrayLike) -> Any:
    """``tri`` as the mean over layers: a sliding-window layer attends to at most ``spec.window`` positions."""
    full = tri(n, s)
    if spec.window is None:
        return full
    n_N, s_N = np.asarray(n, np.int64), np.asarray(s, np.int64)
    before_N = np.clip(spec.window - s_N, 0, n_N)  # tokens whose whole context still fits the window
    sliding = tri(before_N, s_N) + (n_N - before_N) * spec.window
    return ((spec.layers - spec.window_layers) * full + spec.window_layers * sliding) / spec.layers


def cached_positions(spec: ModelSpec, context: ArrayLike) -> Any:
    """Positions whose keys and values are kept for a context, as the mean over layers."""
    if spec.window is None:
        return np.asarray(context, np.int64)
    kept = np.minimum(context, spec.window)
    return ((spec.layers - spec.window_layers) * np.asarray(context) + spec.window_layers * kept) / spec.layers


def prefill_flops(spec: ModelSpec, n: ArrayLike, s: ArrayLike = 0, logits: ArrayLike = 1) -> Any:
    """FLOPs to read ``n`` tokens after ``s`` cached ones and produce logits at ``logits`` positions."""
    linear = np.asarray(n, np.int64) * spec.linear_flops + np.asarray(logits, np.int64) * spec.head_flops
    return linear + spec.attention_flops * attended(spec, n, s)


def decode_flops(spec: ModelSpec, n: ArrayLike, s: ArrayLike) -> Any:
    """FLOPs of ``n`` decode steps after ``s`` context tokens."""
    linear = np.asarray(n, np.int64) * (spec.linear_flops + spec.head_flops)
    return linear + spec.attention_flops * attended(spec, n, s)


def step_bytes(spec: ModelSpec, batch: int, context: int) -> float:
    """Bytes one decode step moves with ``batch`` sequences that attend to ``context`` positions each."""
    positions = batch * float(cached_positions(spec, context))
    return spec.weight_read_bytes(batch) + spec.kv_bytes_per_token * (positions + batch)


def step_time(
    spec: ModelSpec, hardware: Hardware, batch: int, context: float, roofline: Roofline = "two_block"
) -> float:
    """Seconds of one decode step of ``batch`` sequences that attend to ``context`` positions each.

    ``two_block`` adds the linear and the attention block, ``whole`` takes the slower resource of the whole step and
    is optimistic. Raises ``ConfigError`` for another roofline.
    """
    positions = batch * float(cached_positions(spec, context))
    linear, attention = linear_step_time(spec, hardware, batch), attention_time(spec, hardware, positions, positions)
    if roofline == "two_block":
        return hardware.t0 + linear + float(attention)
    if roofline == "whole":
        flops = batch * (spec.linear_flops + spec.head_flops) + spec.attention_flops * positions
        moved = spec.weight_read_bytes(batch) + spec.kv_bytes_per_token * positions
        return hardware.t0 + max(flops / hardware.flops, moved / hardware.bytes_per_s)
    raise ConfigError(f"roofline is {roofline!r}; known: two_block, whole")


def prefill_time(spec: ModelSpec, hardware: Hardware, n: ArrayLike, s: ArrayLike = 0) -> Any:
    """Seconds to read ``n`` tokens after ``s`` cached ones in one pass."""
    positions = np.asarray(n, np.int64) + np.asarray(s, np.int64)
    moved = spec.weight_read_bytes(np.maximum(n, 1)) + spec.kv_bytes_per_token * positions
    return np.maximum(prefill_flops(spec, n, s) / hardware.flops, moved / hardware.bytes_per_s)


def max_concurrency(
    spec: ModelSpec, hardware: Hardware, tokens: float, utilisation: float = 0.9, activations: float = 0.0
) -> int:
    """Sequences of ``tokens`` tokens whose KV cache fits beside the weights; 0 if the weights alone do not fit."""
    free = hardware.memory * utilisation - spec.stored_bytes - activations
    return max(0, math.floor(free / (spec.kv_bytes_per_token * float(cached_positions(spec, tokens)))))


@dataclass(frozen=True)
class LinearCosts:
    """Costs of N plain responses (one prefill, one decode), each array of shape (N,)."""

    flops: I64 | F64
    decode_steps: I64
    kv_read: F64
    """Bytes of keys and values read while decoding."""
    peak_kv: F64
    """Bytes of keys and values held at the end."""
    latency: F64
    """Seconds alone on the machine."""
    prefill_s: dict[int, F64]
    """GPU-seconds of the prefill at each batch size."""
    linear_s: dict[int, F64]
    """GPU-seconds of reading or multiplying the weights while decoding."""
    kv_s: dict[int, F64]
    """GPU-seconds of attention while decoding."""

    def gpu_s(self, batch: int) -> F64:
        """GPU-seconds of each response when ``batch`` sequences share every decode step, shape (N,)."""
        return self.prefill_s[batch] + self.linear_s[batch] + self.kv_s[batch]


def linear_costs(
    spec: ModelSpec, hardware: Hardware, prompt: ArrayLike, response: ArrayLike, batches: tuple[int, ...] = (1, 64)
) -> LinearCosts:
    """Cost of every response from its own prompt and response length; both shape (N,), an empty response is legal.

    The mean over responses is the cost of the mean trace. It is not the cost of the mean length: KV reads are
    quadratic in the length.
    """
    prompt_N = np.atleast_1d(np.asarray(prompt, np.int64))
    steps_N = np.maximum(np.atleast_1d(np.asarray(response, np.int64)) - 1, 0)
    positions_N = attended(spec, steps_N, prompt_N)
    flops_N = prefill_flops(spec, prompt_N)
    attention_N = attention_time(spec, hardware, positions_N, positions_N)
    linear_s = {
        batch: steps_N * ((hardware.t0 + linear_step_time(spec, hardware, batch)) / batch) for batch in {1, *batches}
    }
    return LinearCosts(
        flops=flops_N + decode_flops(spec, steps_N, prompt_N),
        decode_steps=steps_N,
        kv_read=spec.kv_bytes_per_token * positions_N,
        peak_kv=spec.kv_bytes_per_token * cached_positions(spec, prompt_N + steps_N),
        latency=prefill_time(spec, hardware, prompt_N) + linear_s[1] + attention_N,
        prefill_s={batch: flops_N / hardware.flops for batch in batches},
        linear_s={batch: linear_s[batch] for batch in batches},
        kv_s={batch: attention_N for batch in batches},
    )


def linear_step_time(spec: ModelSpec, hardware: Hardware, batch: int) -> float:
    """Seconds the linear layers of one decode step take."""
    compute = batch * (spec.linear_flops + spec.head_flops) / hardware.flops
    return max(compute, spec.weight_read_bytes(batch) / hardware.bytes_per_s)


def attention_time(spec: ModelSpec, hardware: Hardware, positions: Any, read: Any) -> Any:
    """Seconds attention takes for ``positions`` attended (query, key) pairs and ``read`` cached tokens read."""
    return np.maximum(
        spec.attention_flops * positions / hardware.flops, spec.kv_bytes_per_token * read / hardware.bytes_per_s
    )
