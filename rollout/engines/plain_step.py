"""One decode step of a plain Llama or Qwen2 without a module call for each of its parts.

    x = embedding;  per layer: x += o(attention(rope(q), rope(k), v of norm(x))), x += down(silu(gate) * up of norm(x))

A step of a small model on a CPU is mostly Python: transformers calls some fifty modules for three layers. Here the same
tensors meet the same operations in a plain loop; norms are torch's fused one, equal to rounding. Nothing is copied, so
weights may change under it. What is not exactly of the known kinds (adapters, hooks, patched forwards, other precision)
is left to the model's own forward: ``plain_step`` then returns None. The trainer's log-prob head is known: it patches
``forward`` and leaves decoding alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, silu
from transformers import LlamaForCausalLM, Qwen2ForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer, LlamaMLP, LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2DecoderLayer, Qwen2MLP, Qwen2RMSNorm

from .slots import SlotCache, slot_attention

# Shapes: n rows, C model width, Q query heads, H KV heads, D head width, V vocabulary, L columns

Step = Callable[[Tensor, Tensor, Tensor, SlotCache], Tensor]
"""(input ids (n, 1), positions (n, 1), mask (n, 1, 1, L), cache) -> logits (n, 1, V)."""
_TOPS = (LlamaForCausalLM, Qwen2ForCausalLM)
_PARTS = (
    *(LlamaDecoderLayer, LlamaAttention, LlamaMLP, LlamaRMSNorm, nn.Linear, nn.Embedding),
    *(Qwen2DecoderLayer, Qwen2Attention, Qwen2MLP, Qwen2RMSNorm),
)


def plain_step(model: nn.Module) -> Step | None:
    """The step of ``model``, or None where only its own forward knows what it computes."""
    if type(model) not in _TOPS or model.config.hidden_act != "silu" or getattr(model.config, "use_sliding_window", 0):
        return None
    base: Any = model.model
    parts = [part for layer in base.layers for part in layer.modules()]
    parts += [base.norm, base.embed_tokens, model.lm_head]
    if any(type(part) not in _PARTS for part in parts if part not in _activations(base)):
        return None
    patched = [m for m in [model, base, *parts] if "forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks]
    if any(m is not model or not _only_scores(m) for m in patched):
        return None
    if any(parameter.dtype is not torch.float32 for parameter in model.parameters()):
        return None
    head: Any = model.lm_head

    def step(ids_n1: Tensor, position_n1: Tensor, mask_n11L: Tensor, cache: SlotCache) -> Tensor:
        x_nC = base.embed_tokens.weight[ids_n1[:, 0]]
        width = (x_nC.shape[1],)
        cos_n1D, sin_n1D = base.rotary_emb(x_nC, position_n1)
        half = cos_n1D.shape[2] // 2
        for index, layer in enumerate(base.layers):
            attention, mlp = layer.self_attn, layer.mlp
            h_nC = rms_norm(x_nC, width, layer.input_layernorm.weight, layer.input_layernorm.variance_epsilon)
            q_nC = linear(h_nC, attention.q_proj.weight, attention.q_proj.bias)
            k_nC = linear(h_nC, attention.k_proj.weight, attention.k_proj.bias)
            v_nHD = linear(h_nC, attention.v_proj.weight, attention.v_proj.bias).unflatten(1, (-1, 2 * half))
            # queries and keys turn alike: together they take one pass
            both = torch.cat([q_nC, k_nC], 1).unflatten(1, (-1, 2 * half))
            turned = torch.cat([-both[..., half:], both[..., :half]], -1)
            both = torch.addcmul(both * cos_n1D, turned, sin_n1D)
            heads = both.shape[1] - v_nHD.shape[1]
            keys, values = cache.layers[index].update(both[:, heads:, None], v_nHD[:, :, None])
            mixed, _ = slot_attention(
                attention, both[:, :heads, None], keys, values, mask_n11L, scaling=attention.scaling
            )
            x_nC = x_nC + linear(mixed.flatten(1), attention.o_proj.weight, attention.o_proj.bias)
            norm = layer.post_attention_layernorm
            h_nC = rms_norm(x_nC, width, norm.weight, norm.variance_epsilon)
            gate = silu(linear(h_nC, mlp.gate_proj.weight, mlp.gate_proj.bias))
            up = linear(h_nC, mlp.up_proj.weight, mlp.up_proj.bias)
            x_nC = x_nC + linear(gate * up, mlp.down_proj.weight, mlp.down_proj.bias)
        x_nC = rms_norm(x_nC, width, base.norm.weight, base.norm.variance_epsilon)
        return linear(x_nC, head.weight, head.bias)[:, None]

    return step


def _only_scores(model: nn.Module) -> bool:
    """Whether the one change of ``model`` is the log-prob head."""
    own = vars(model).get("forward") is vars(model).get("logprob_head_forward")
    return own and not model._forward_hooks and not model._forward_pre_hooks


def _activations(base: Any) -> list[nn.Module]:
    """Their kind is ``hidden_act``'s, whatever class transformers gives it."""
    return [layer.mlp.act_fn for layer in base.layers]
