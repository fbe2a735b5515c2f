"""The loss of packs and its gradients, by rows or trees, in the precision of the model."""

from __future__ import annotations

import types
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laconic.train.forward import score_all
from laconic.train.objectives import LossInputs
from laconic.train.packed import PackedBatch

WEIGHTS = ("w_pos", "w_neg", "w_kl", "w_ent", "w_nll")
COLUMNS = ("old_logp", "ref_logp", *WEIGHTS, "engine_logp")


def norms_in_float64(model: Any) -> None:
    """Those of a float64 model, which otherwise compute in float32."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = types.MethodType(_norm, module)


def _norm(self: Any, x: Tensor) -> Tensor:
    return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def loss_and_gradients(model: Any, packs: list[PackedBatch], objective: Any) -> tuple[float, dict[str, Tensor]]:
    """Summed over the packs of an update."""
    model.zero_grad()
    total = 0.0
    for pack in packs:
        index_M, scored = score_all(model, pack, "cpu")
        columns = {
            f"{name}_M": torch.from_numpy(getattr(pack, name)[index_M]).to(scored.log_probs.dtype) for name in COLUMNS
        }
        row_M = torch.from_numpy(pack.row[index_M])
        outputs = objective(LossInputs(log_probs_M=scored.log_probs, entropy_M=scored.entropy, row_M=row_M, **columns))
        outputs.loss.backward()
        total += float(outputs.loss.detach())
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def size(packs: list[PackedBatch]) -> float:
    """Of the weights together: what the terms of a loss amount to before they cancel each other."""
    return sum(float(np.abs(getattr(pack, name)).sum()) for pack in packs for name in WEIGHTS)


def worst_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest relative difference of any parameter's gradient."""
    assert one.keys() == other.keys() and one
    return max(float((one[name] - other[name]).norm()) / (float(one[name].norm()) + 1e-300) for name in one)


def with_constants(pack: PackedBatch) -> PackedBatch:
    """Reference and recomputed old log-probs, as any function of the token's behaviour."""
    engine = pack.engine_logp
    old, ref = engine * np.float32(0.875) - np.float32(0.0625), engine * np.float32(0.75) - np.float32(0.25)
    return replace(pack, old_logp=old, ref_logp=ref)
