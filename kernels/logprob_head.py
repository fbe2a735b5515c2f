"""A log-prob head: log-probs and entropies of chosen tokens, without the logits of a whole batch in memory.

    z = logits(hidden[pred]) / temperature        after the model's own scale and soft cap
    log_prob = z[target] - logsumexp(z)
    entropy  = logsumexp(z) - sum_v softmax(z)_v z_v

Hidden states are gathered at ``pred`` before the head, because where a tree branches several tokens are predicted
from one position. The (M, V) logits never exist at once: ``fused_logprob`` projects tiles of tokens x words, folds them
into running sums and recomputes them in the backward pass; logits, sums and gradients are accumulated in float32, or in
float64 for a model in float64.

The head lives inside ``model.forward``, so that the hooks of DDP, FSDP and ZeRO fire as for any forward. Scale, soft
cap and gathering of a sharded head follow ``trl.trainer.utils.add_fused_lm_head`` (trl 1.16).
"""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput
from trl.trainer.utils import maybe_gather_lm_head_ctx

from ..errors import ConfigError
from .fused_logprob import fused_logprob

# Shapes: B rows, T tokens of a row, M scored tokens, H hidden size, V vocabulary

VALUE_HEAD = "value_head"
"""A submodule of this name on the model gets the gathered hidden states too: its answer is ``value``."""


@dataclass
class LogProbOutput(ModelOutput):
    """What the patched forward returns with ``logprob_head=True``."""

    log_probs: Tensor | None = None
    """Log-prob of each target in nats, float32 (M,); float64 where the model is."""
    entropy: Tensor | None = None
    """Entropy of the distribution it was drawn from in nats, likewise."""
    value: Tensor | None = None
    """What the model's value head says of the hidden state it was drawn from (M,); None without one."""


def add_logprob_head(model: PreTrainedModel, temperature: float = 1.0, vocabulary: int | None = None) -> None:
    """Patch ``model.forward``; call it before the model is wrapped by DDP, FSDP or PEFT.

    Afterwards ``model(input_ids=ids_BT, position_ids=pos_BT, attention_mask=..., pred=index_M, targets=targets_M,
    logprob_head=True)`` returns a :class:`LogProbOutput`. ``pred`` (int64) indexes the flattened B * T hidden states,
    ``targets`` (int64) are token ids. M = 0 gives empty tensors that still belong to the graph, so that a rank
    without tokens takes part in the backward pass. Without ``logprob_head`` the original forward runs.

    Args:
        model: a causal language model of transformers.
        temperature: of the distribution.
        vocabulary: words from here on have no probability, as where an engine never samples the words by which a
            model's vocabulary is padded beyond its tokenizer's; None keeps all.

    Raises:
        ConfigError: the temperature is not above 0, or the model has no plain linear head.
    """
    if not temperature > 0:
        raise ConfigError(f"the temperature of the log-prob head is {temperature} but must be above 0; raise it")
    _linear_head(model)
    original_forward = model.forward
    scale, soft_cap = _logit_transform(model.config.get_text_config())

    # `generate` checks its keywords against this signature.
    @functools.wraps(type(model).forward)
    def forward(
        self: Any, *args: Any, logprob_head: bool = False, pred: Tensor | None = None, targets: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:  # fmt: skip
        if not logprob_head:
            return original_forward(*args, **kwargs)
        assert pred is not None and targets is not None, "logprob_head=True needs pred and targets"
        kwargs.pop("labels", None)  # PEFT passes it on as None, and a backbone does not know it.
        hidden_BTH = self.base_model(*args, **{**kwargs, "use_cache": False}).last_hidden_state
        # Looked up on each call, because FSDP and PEFT replace modules after the patch.
        head = _linear_head(self)
        hidden_MH = _rows_of(hidden_BTH.flatten(0, 1), pred.to(hidden_BTH.device)).to(head.weight.device)
        targets_M = targets.to(head.weight.device)
        log_probs_M, entropy_M = _log_probs(hidden_MH, head, targets_M, temperature, scale, soft_cap, vocabulary)
        critic = getattr(self, VALUE_HEAD, None)
        value_M = None if critic is None else critic(hidden_MH)
        return LogProbOutput(log_probs=log_probs_M, entropy=entropy_M, value=value_M)

    model.forward = types.MethodType(forward, model)
    # By this an engine tells this patch from those that change what is decoded.
    vars(model)["logprob_head_forward"] = model.forward


def _rows_of(hidden_NH: Tensor, pred_M: Tensor) -> Tensor:
    """Rows of hidden states; where a tree forks, one stands for several tokens, and their gradients are added up.

    On a GPU ``index_select`` would add them in the hidden states' own type and in any order, ``embedding`` does in
    float32 and in a fixed one. On a CPU ``index_select`` is the exact one.
    """
    return nn.functional.embedding(pred_M, hidden_NH) if hidden_NH.is_cuda else hidden_NH.index_select(0, pred_M)


def _log_probs(
    hidden_MH: Tensor, head: nn.Linear, targets_M: Tensor, temperature: float, scale: float, soft_cap: float | None,
    vocabulary: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    weight, bias = _whole(head.weight), None if head.bias is None else _whole(head.bias)
    with maybe_gather_lm_head_ctx(weight, bias):
        weight, bias = weight[:vocabulary], None if bias is None else bias[:vocabulary]
        return fused_logprob(
            hidden_MH, weight, targets_M, bias=bias, temperature=temperature, scale=scale, soft_cap=soft_cap,
            gather=maybe_gather_lm_head_ctx,
        )  # fmt: skip


def _whole(parameter: Tensor) -> Tensor:
    """FSDP2 shards parameters as DTensors, while hidden states are plain tensors."""
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def _linear_head(model: Any) -> nn.Linear:
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ConfigError(
            f"the output head of {type(model).__name__} is {type(head).__name__}, but the log-prob head reads the "
            "weight of a plain linear layer; leave lm_head out of the PEFT target modules and of quantisation"
        )
    return head


def _logit_transform(config: Any) -> tuple[float, float | None]:
    """Factor on the logits and soft cap, by the names that the model families use."""
    soft_cap = getattr(config, "final_logit_softcapping", None)
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name)), soft_cap
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0, soft_cap
    # Granite and MiniCPM3 divide by it, HyperCLOVA X multiplies.
    return (float(scaling) if config.model_type == "hyperclovax" else 1 / float(scaling)), soft_cap
