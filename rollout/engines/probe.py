"""Do engine and trainer have the same weights? One fixed prompt after every sync tells.

The engine continues a prompt by a few tokens, the trainer's model scores them, and their log-probs must agree. An
engine that kept one old tensor, such as the output layer of tied embeddings, fails at once instead of training on.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ...errors import RunError
from ..records import Ids, Logps
from .protocol import Completion, Engine, NoiseKey, Request, Sampling

# Shapes: T tokens of prompt and continuation, N of the continuation, V vocabulary

TOLERANCE = 1e-3
"""Largest difference of log-probs in nats between float32 engine and trainer."""
ROUGH = 0.25
"""The same for an engine that computes in 16 bits."""
PROBE_ID = -1
"""Request id of the probe; a scheduler's ids count from 0."""
PROMPT, NEW, TEMPERATURE = 12, 8, 0.7
"""Not temperature 1, where log-probs before and after scaling are equal."""


def probe(engine: Engine, model: nn.Module, vocabulary: int, tolerance: float) -> float:
    """Largest difference of log-probs in nats between ``engine`` and ``model`` over ``NEW`` sampled tokens.

    Nothing else may be live. Raises ``RunError`` for a difference above ``tolerance``.
    """
    context = ((np.arange(PROMPT) * 7 + 3) % vocabulary).astype(np.int32)
    engine.submit([Request(PROBE_ID, context, NEW, Sampling(TEMPERATURE), NoiseKey(0, 0, 0, 0))])
    done: list[Completion] = []
    while not done:
        done = engine.step()
    ids = done[0].ids
    difference = float(np.abs(teacher_forced(model, context, ids, vocabulary, TEMPERATURE) - done[0].logp).max())
    if not difference <= tolerance:
        raise RunError(
            f"after weights version {engine.policy_version} came, the engine's log-probs of a fixed prompt differ from "
            f"the trainer's by {difference:.2g} nats (limit {tolerance:.2g}): it does not decode with the trainer's "
            "weights; compare the version of vllm with the tested one, or set rollout.engine=transformers"
        )
    return difference


def teacher_forced(model: nn.Module, context: Ids, ids: Ids, vocabulary: int, temperature: float = 1.0) -> Logps:
    """Log-probs of ``ids`` after ``context`` by one plain forward, shape (N,), float32."""
    device = next(model.parameters()).device
    both_1T = torch.from_numpy(np.concatenate([context, ids]).astype(np.int64)).to(device)[None]
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            logits_NV = model(input_ids=both_1T, use_cache=False).logits[0, len(context) - 1 : -1, :vocabulary]
    finally:
        for module in training:
            module.training = True
    logp_NV = (logits_NV.float() / temperature).log_softmax(-1)
    return logp_NV.gather(1, both_1T[0, len(context) :, None])[:, 0].cpu().numpy()
