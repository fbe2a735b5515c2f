"""What both vLLM engines have in common: a request in vLLM's words, and its answer in ours.

Token ids go in and come out; vLLM has no tokenizer. Its log-probs are ``processed_logprobs``: those of the distribution
it samples from, after temperature, top-k and top-p.

vLLM draws its own random numbers, from a generator per request. Its seed is made of the request's ``NoiseKey`` and
position, so equal requests get equal numbers; but they are other numbers than the embedded engine's, and since sums of
floats depend on the batch, a sample repeats exactly only in an equal batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ...errors import ConfigError, RunError
from ..noise import stream_key, uniforms
from ..records import Cost, Stop
from .limits import Limits, configured_eos, kv_bytes_per_token
from .protocol import Completion, Request

FORBIDDEN = -100.0
"""Added to the logits of ids no tokenizer knows: the strongest bias that vLLM takes. In float32 e^-100 adds nothing."""


@dataclass(frozen=True)
class Terms:
    """What holds for every request to one engine."""

    eos_ids: tuple[int, ...]
    limits: Limits
    vocabulary: int
    """Ids the model has logits for."""
    allowed_vocab: int
    """Ids that may be sampled: those below."""

    def __post_init__(self) -> None:
        if not 1 <= self.allowed_vocab <= self.vocabulary:
            raise ConfigError(
                f"the tokenizer has {self.allowed_vocab} ids but the model {self.vocabulary}: they do not belong "
                "together; give the tokenizer the model was made with"
            )

    @classmethod
    def of(
        cls, model: nn.Module, eos_ids: Sequence[int], allowed_vocab: int | None, max_live: int, max_context: int
    ) -> Terms:
        """The terms for ``model``, whose configured EOS ids are added to ``eos_ids``."""
        vocabulary = int(model.config.get_text_config().vocab_size)
        return cls(
            eos_ids=tuple(sorted({*eos_ids, *configured_eos(model)})),
            limits=Limits(max_live, max_context, kv_bytes_per_token(model.config, model)),
            vocabulary=vocabulary,
            allowed_vocab=vocabulary if allowed_vocab is None else allowed_vocab,
        )

    def sampling_params(self, request: Request) -> dict[str, Any]:
        """Arguments of vLLM's ``SamplingParams``; the end of a text is a stop token like any other."""
        sampling = request.sampling
        forbidden = range(self.allowed_vocab, self.vocabulary)
        return {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": seed_of(request),
            "max_tokens": request.max_tokens,
            "stop_token_ids": sorted({*self.eos_ids, *request.stop_ids}),
            "ignore_eos": True,
            "logprobs": 0,
            "detokenize": False,
            "logit_bias": dict.fromkeys(forbidden, FORBIDDEN) or None,
        }

    def completion(
        self,
        request: Request,
        ids: Sequence[int],
        logp: Sequence[float],
        cached: int,
        version: int,
        aborted: bool = False,
    ) -> Completion:
        """The answer to ``request``. ``cached``: how many context tokens vLLM found in its prefix cache."""
        ids_T, logp_T = np.asarray(ids, np.int32), np.asarray(logp, np.float32)
        if ids_T.shape != logp_T.shape or not np.isfinite(logp_T).all():
            raise RunError(
                f"request {request.id}: vLLM returned {len(ids_T)} tokens with {len(logp_T)} log-probs, "
                f"{int(np.isfinite(logp_T).sum())} of them numbers; the weights are broken: go back to a checkpoint"
            )
        context, decoded = len(request.context), len(ids_T)
        if aborted:
            stop = Stop.ABORTED
        elif ids_T[-1] in self.eos_ids:
            stop = Stop.EOS
        else:
            stop = Stop.STOP_TOKEN if ids_T[-1] in request.stop_ids else Stop.LENGTH
        started = decoded > 0
        cost = Cost(
            decoded=decoded,
            prefilled=context - cached if started else 0,
            cached=cached if started else 0,
            kv_read=decoded * context + decoded * (decoded - 1) // 2,
        )
        return Completion(request.id, ids_T, logp_T, stop, version, cost)


def seed_of(request: Request) -> int:
    """Seed of a request's generator: 52 bits of (seed, step, group, leaf, position)."""
    return int(uniforms(stream_key(request.noise), request.position) * 2.0**52)
