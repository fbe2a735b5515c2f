"""From a generation's experience to the packs of its updates.

    groups ──> updates_per_batch parts ──> flatten to rows ──> pack ──> old, reference, values as asked ──> x epochs

What an objective needs beside the engine's log-probs is computed here, once per generation and before its first
update: the trainer's own log-probs (``objective.old``), the reference's (``objective.kl``), values and advantages of a
critic.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from .critic import critic_of, with_advantages
from .experience import Experience, imitation
from .forward import score, with_old_log_probs
from .packed import PackedBatch
from .rows import Totals, flatten, to_packs, totals_of

if TYPE_CHECKING:
    from .trainer import LaconicTrainer


def updates_of(trainer: LaconicTrainer, experience: Experience) -> list[list[PackedBatch]]:
    """``updates_per_batch`` updates of whole groups each, gone through ``epochs`` times."""
    optim, objective = trainer.settings.optim, trainer.settings.objective
    with trainer._phase("pack"):
        everywhere = trainer._on_all_ranks([group.id for group in experience.groups])
        parts = np.array_split(np.array(everywhere), optim.updates_per_batch)
        updates = [_packs(trainer, experience.only(set(part.tolist()))) for part in parts]
    forward = sum(len(pack) for packs in updates for pack in packs)
    trainer._generation_metrics["tokens/forward"] = sum(trainer.ranks.gather(forward))
    if objective.old == "recompute":
        device = trainer.accelerator.device
        with trainer._phase("old"), trainer.accelerator.autocast():
            updates = [[with_old_log_probs(trainer.model, pack, device) for pack in packs] for packs in updates]
    if objective.kl:
        with trainer._phase("reference"):
            updates = [[_with_reference(trainer, pack) for pack in packs] for packs in updates]
    if critic_of(trainer.settings):
        with trainer._phase("value"), trainer.accelerator.autocast():
            updates = with_advantages(trainer, updates)
    return updates * optim.epochs


def _packs(trainer: LaconicTrainer, chosen: Experience) -> list[PackedBatch]:
    """The packs of one update on this rank; weights are normalised over all ranks."""
    settings, gather = trainer.settings, trainer.ranks.gather
    objective, critic = settings.objective, critic_of(settings)
    advantage_N = chosen.reward_N if critic else chosen.advantage_N  # a critic makes advantages of rewards
    assert advantage_N is not None
    rows = flatten(
        chosen.groups,
        advantage_N,
        normalizer=objective.normalizer,
        max_completion=settings.rollout.max_completion,
        keep_all=objective.touches_all_tokens,
        totals=sum(gather(totals_of(chosen.groups)), Totals()),
        token_advantage=None if critic else chosen.token_advantage,
        nll_N=imitation(chosen, getattr(objective, "nll", 0.0), gather),
    )
    return to_packs(rows, settings.optim.micro_batch_tokens)


@torch.no_grad()
def _with_reference(trainer: LaconicTrainer, pack: PackedBatch) -> PackedBatch:
    """The pack with the reference model's log-probs."""
    model, adapter = trainer.ref_model, nullcontext()
    if model is None:
        # With PEFT the reference is the policy without its adapter.
        model, adapter = trainer.model, trainer.accelerator.unwrap_model(trainer.model).disable_adapter()
    with adapter, trainer.accelerator.autocast():
        index_M, log_probs_M, _ = score(model, pack, trainer.accelerator.device)
    ref_logp = np.full(len(pack), np.nan, np.float32)
    ref_logp[index_M] = log_probs_M.float().cpu().numpy()
    return replace(pack, ref_logp=ref_logp)
