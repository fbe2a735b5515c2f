"""Tree attention in any model that takes its attention from transformers' registry.

``use_tree_attention`` names our function in the model's configuration, once and for good: with gradient checkpointing a
layer is computed again in the backward pass, when the forward that set a name for a while is over. What it computes
depends on the call:

    model(..., attention_mask=path_mask(layout), tree=layout)    tree attention over one packed sequence, (1, N)
    model(...)                                                   torch's attention, as without us

``tree`` reaches every layer as a keyword. The mask is four-dimensional, which keeps transformers from making one of its
own (a packed sequence has positions that jump), and of integers, by which our function notices a keyword that got lost.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ...errors import ConfigError
from ...kernels.tree_attn import tree_attention
from ...kernels.tree_layout import TreeLayout
from ..packed import PackedBatch

# Shapes: N tokens of the pack, Q query heads, H key heads, D head width

TREE_ATTENTION = "laconic_tree"
"""Name under which it is registered with transformers."""
_UNKNOWN = ("softcap", "s_aux", "position_bias")
"""Arguments that change what attention computes, and that ours doesn't know."""


def use_tree_attention(model: PreTrainedModel) -> None:
    """Let ``model`` take packed trees; without them it computes what it did before.

    Raises:
        ConfigError: it doesn't take its attention from the registry, or uses another one than torch's.
    """
    own = model.config._attn_implementation
    if own == TREE_ATTENTION:
        return
    if not model.is_backend_compatible():
        raise ConfigError(f"{type(model).__name__} doesn't take its attention from transformers' registry")
    if own != "sdpa":
        raise ConfigError(
            f"{type(model).__name__} was loaded with attention {own}, and tree packing goes with sdpa only; load it "
            'with attn_implementation="sdpa"'
        )
    model.set_attn_implementation(TREE_ATTENTION)


def takes_trees(model: Any) -> bool:
    """Whether a model, wrapped or not, has been prepared."""
    while hasattr(model, "module"):
        model = model.module
    return getattr(getattr(model, "config", None), "_attn_implementation", None) == TREE_ATTENTION


def layout_of(pack: PackedBatch) -> TreeLayout:
    """What attention needs to know of a pack."""
    return TreeLayout.of(pack.pos, pack.sub_end, pack.pred)


def path_mask(layout: TreeLayout) -> Tensor:
    """What a model is given for an attention mask: one number per key, (1, 1, 1, N) int32."""
    return torch.from_numpy(layout.sub_end.astype(np.int32))[None, None, None]


def attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *,
    scaling: float | None = None, dropout: float = 0.0, tree: TreeLayout | None = None, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """An attention function of transformers: query (1, Q, N, D), key and value (1, H, N, D) -> (1, N, Q, D)."""
    name = type(module).__name__
    if tree is None:
        if attention_mask is not None and attention_mask.dtype == torch.int32:
            raise ConfigError(f"{name} doesn't hand the keyword `tree` to its attention")
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    foreign = [argument for argument in _UNKNOWN if kwargs.get(argument) is not None]
    if foreign or dropout:
        wanted = ", ".join(foreign) or f"dropout {dropout:g}"
        raise ConfigError(f"{name} asks its attention for {wanted}, which that of trees lacks; set optim.packing=rows")
    window = kwargs.get("sliding_window")
    if window is not None and (longest := int(tree.pos.max(initial=-1)) + 1) > window:
        raise ConfigError(
            f"{name} has a sliding window of {window:,} tokens, and a path of the pack has {longest:,}; set "
            "optim.packing=rows"
        )
    # Under autocast, rotary embeddings and norms leave queries and keys in float32 and values in 16 bits.
    device = value.device.type
    autocast = torch.is_autocast_enabled(device) and value.dtype != torch.float64
    dtype = torch.get_autocast_dtype(device) if autocast else value.dtype
    q_NQD, k_NHD, v_NHD = (states[0].transpose(0, 1).to(dtype) for states in (query, key, value))
    return tree_attention(q_NQD, k_NHD, v_NHD, tree, scale=scaling)[None], None


AttentionInterface.register(TREE_ATTENTION, attend)
AttentionMaskInterface.register(TREE_ATTENTION, sdpa_mask)
