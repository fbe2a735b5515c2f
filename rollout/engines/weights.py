"""Loads new weights so that nothing can be left behind: whatever does not fit is an error.

A loader that skips what it does not find lets an engine go on generating with old weights. Tied embeddings invite it:
``named_parameters()`` and saved files leave out ``lm_head.weight``, which ``state_dict()`` has.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...errors import DataError


def load_complete(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy a complete ``state_dict`` into ``model`` in place.

    Raises ``DataError`` for a tensor that is missing, unknown, of another shape, or tied to one that differs from it.
    """
    own = model.state_dict()
    missing, foreign = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or foreign:
        raise DataError(
            f"weights lack {len(missing)} of {len(own)} tensors {missing[:3]} and bring {len(foreign)} unknown ones "
            f"{foreign[:3]}; give the model's complete state_dict(), tied aliases such as lm_head.weight included"
        )
    aliases: dict[int, str] = {}
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            raise DataError(f"{name} has shape {tuple(weights[name].shape)} but the model needs {tuple(tensor.shape)}")
        first = aliases.setdefault(tensor.data_ptr(), name) if tensor.numel() else name
        if first != name and not torch.equal(weights[first], weights[name]):
            raise DataError(f"{first} and {name} are tied in the model but differ in the weights; untie or repair them")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])


def complete_state(model: nn.Module) -> dict[str, Tensor]:
    """The complete ``state_dict`` a loader of plain weights understands: aliases included, LoRA merged into its base.

    Tensors are the model's own where nothing was merged; they are to be copied before the next update.
    """
    own = model.state_dict()
    adapted = {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "base_layer") and hasattr(module, "get_delta_weight")
    }
    # A critic, say: it is trained with the model and decodes nothing.
    idle = [name for name, module in model.named_modules() if not getattr(module, "decodes", True)]
    plain: dict[str, Tensor] = {}
    for name, tensor in own.items():
        if any(name.startswith(f"{module}.") for module in idle):
            continue
        if any(name.startswith(f"{layer}.") and not name.startswith(f"{layer}.base_layer.") for layer in adapted):
            continue  # a matrix of the adapter itself
        plain[name.replace(".base_layer.", ".")] = tensor
    with torch.no_grad():
        for name, module in adapted.items():
            for adapter in module.active_adapters:
                weight = plain[f"{name}.weight"]
                plain[f"{name}.weight"] = weight + module.get_delta_weight(adapter).to(weight.dtype)
    return plain


def check_complete(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise ``DataError`` unless ``weights`` has exactly the names and shapes of ``complete_state(model)``."""
    own = {name: tensor.shape for name, tensor in complete_state(model).items()}
    missing, foreign = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or foreign:
        raise DataError(
            f"weights lack {len(missing)} of {len(own)} tensors {missing[:3]} and bring {len(foreign)} unknown ones "
            f"{foreign[:3]}; give the model's complete state_dict(), tied aliases such as lm_head.weight included"
        )
    for name, shape in own.items():
        if weights[name].shape != shape:
            raise DataError(f"{name} has shape {tuple(weights[name].shape)} but the model needs {tuple(shape)}")
