"""Random models of two kinds, requests for them, and what one plain forward says of the answers."""

import copy

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from laconic.rollout.engines.protocol import NoiseKey, Request, Sampling
from laconic.rollout.engines.sampling import sampling_logp

REAL = 22
SIZE = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 300,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}


def make(kind, **changes):
    torch.manual_seed(0)
    if kind == "qwen2":
        config = Qwen2Config(**{**SIZE, "num_key_value_heads": 2, "tie_word_embeddings": True, **changes})
        model = Qwen2ForCausalLM(config)
    else:
        config = LlamaConfig(**{**SIZE, "num_key_value_heads": 4, "tie_word_embeddings": False, **changes})
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)  # random models are too flat to tell right from nearly right
    return model.eval()


MODELS = {kind: make(kind) for kind in ("qwen2", "llama")}


def prompts(count, low=1, high=30, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(2, REAL, rng.integers(low, high)).astype(np.int32) for _ in range(count)]


def request(index, context, max_tokens=40, sampling=None, leaf=0, **options):
    return Request(index, context, max_tokens, sampling or Sampling(), NoiseKey(7, 0, index, leaf), **options)


def run(engine, requests):
    engine.submit(requests)
    done = []
    while engine.busy:
        done += engine.step()
    assert len(done) == len(requests)
    return sorted(done, key=lambda completion: completion.request)


def scored(model, context, ids, sampling):
    """Teacher-forced log-probs of ``ids`` after ``context``, one plain forward."""
    both = torch.tensor(np.concatenate([context, ids]), dtype=torch.int64)[None]
    with torch.no_grad():
        logits = model(both, use_cache=False).logits[0, len(context) - 1 : -1, :REAL].float()
    logp = sampling_logp(logits, sampling if sampling.temperature else Sampling())
    return logp.gather(-1, both[0, len(context) :, None])[:, 0].numpy()


def other_weights(model):
    generator = torch.Generator().manual_seed(5)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for weight in changed.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.2)
    return changed, changed.state_dict()
