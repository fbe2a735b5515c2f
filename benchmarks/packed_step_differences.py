"""How far losses and gradients of two trainers are apart on the same rollouts: a part of ``packed_step_trl.py``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from transformers import PreTrainedModel
from trl import GRPOTrainer


def differences(
    ours: GRPOTrainer, packs: Sequence[Any], theirs: GRPOTrainer, batches: Sequence[Any], device: str
) -> dict[str, float]:
    """In float32, and on a GPU as they are timed, under autocast: there rounding hides what one layer does wrong."""
    found: dict[str, float] = {}
    for autocast in (False, True) if device == "cuda" else (False,):
        loss = loss_of(ours, packs, autocast) - loss_of(theirs, batches, autocast)
        apart = {"loss": abs(loss)} | gradients_apart(ours.model, theirs.model)
        if autocast:
            del apart["attention"]
        found |= {f"{name}, autocast" if autocast else name: value for name, value in apart.items()}
    return found


def loss_of(trainer: GRPOTrainer, batches: Sequence[Any], autocast: bool) -> float:
    """Sum over the batches; their gradients are then those of the model."""
    total = 0.0
    trainer.model.zero_grad()
    for batch in batches:
        # The trainer's own loop gets its autocast when the model is prepared, at the start of training.
        with trainer.accelerator.autocast() if autocast else nullcontext():
            loss = trainer._compute_loss(trainer.model, batch)
        loss.backward()
        total += float(loss.detach())
    return total


def gradients_apart(ours: PreTrainedModel, theirs: PreTrainedModel) -> dict[str, float]:
    """Difference relative to their norm: of all gradients at once, and of the worst of attention's weights."""
    sides = zip(ours.named_parameters(), theirs.parameters(), strict=True)
    norms = {name: torch.stack([(a.grad - b.grad).norm(), b.grad.norm()]) for (name, a), b in sides}
    whole = torch.stack(list(norms.values())).norm(dim=0)
    attention = torch.stack([both for name, both in norms.items() if "self_attn" in name and name.endswith("weight")])
    return {"gradient": float(whole[0] / whole[1]), "attention": float((attention[:, 0] / attention[:, 1]).max())}
