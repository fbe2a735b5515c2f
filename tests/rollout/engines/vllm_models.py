"""Models small enough for real vLLM in tests, and what asks it."""

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from laconic.rollout.engines.protocol import NoiseKey, Request, Sampling

REAL = 90
"""Ids of the tokenizer; the models have 96."""
EOS = 1
BLOCK = 32
SIZE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}


def make(tied, seed=0):
    """A random Qwen2 with tied or Llama with untied embeddings, peaked enough to tell right from nearly right."""
    torch.manual_seed(seed)
    if tied:
        model = Qwen2ForCausalLM(Qwen2Config(**SIZE, tie_word_embeddings=True))
    else:
        model = LlamaForCausalLM(LlamaConfig(**SIZE, tie_word_embeddings=False))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.mul_(4)
    return model.eval()


def narrow(seed=0):
    """A tied model with heads 24 wide, which vLLM's CPU attention lacks."""
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(Qwen2Config(**{**SIZE, "hidden_size": 48, "tie_word_embeddings": True}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.mul_(4)
    return model.eval()


def prompts(count, low=1, high=60, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(2, REAL, rng.integers(low, high)).astype(np.int32) for _ in range(count)]


def request(index, context, max_tokens=24, sampling=None, leaf=0, **options):
    context = np.asarray(context, np.int32)
    return Request(index, context, max_tokens, sampling or Sampling(), NoiseKey(7, 0, index, leaf), **options)


def run(engine, requests):
    engine.submit(requests)
    done = []
    while engine.busy:
        done += engine.step()
    assert len(done) == len(requests)
    return sorted(done, key=lambda completion: completion.request)


def scored(model, context, ids, temperature):
    """Teacher-forced log-probs of ``ids`` after ``context``."""
    both = torch.tensor(np.concatenate([context, ids]), dtype=torch.int64)[None]
    with torch.no_grad():
        logits = model(both, use_cache=False).logits[0, len(context) - 1 : -1, :REAL].float()
    logp = (logits / (temperature or 1.0)).log_softmax(-1)
    return logp.gather(-1, both[0, len(context) :, None])[:, 0].numpy()
