"""The critic of PPO: a value head inside the policy's module, and the advantages it gives to packs.

The head reads the hidden state from which a token is drawn and estimates the return before that token, so one forward
pass scores a pack and values it, and whatever prepares the policy (DDP, DeepSpeed) prepares the head with it. It begins
at the mean reward of its first generation everywhere: from 0 the level would have to be learned through the weights of
single tokens, and until then every answer would look better than expected. Checkpoints hold it among the policy's
weights; what leaves a run does not (``without_value_head``).

Packs come here with the rollout's reward in place of an advantage, and leave with ``value``, ``returns`` and weights of
every token's own advantage. Statistics are of the trained tokens of a generation on all ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..kernels.logprob_head import VALUE_HEAD
from .adapter import causal_lm
from .forward import score_all
from .objectives.gae import gae, length_adaptive_lambda
from .objectives.ppo import Ppo
from .packed import F32, PackedBatch

if TYPE_CHECKING:
    from .settings import Settings
    from .trainer import LaconicTrainer

# Shapes: N tokens of the pack, M scored tokens, B rows, T tokens of the longest row, H hidden size

F64 = NDArray[np.float64]
T = TypeVar("T")
ALONE = 1e-3
"""Factor on the gradients of a head that trains alone. To Adam it makes no difference, but gradients are clipped by
their common norm, in which a new critic's would be the largest: policy steps would be short while it learns."""


class ValueHead(nn.Module):
    """Estimated return of each hidden state, float32."""

    decodes = False
    """Engines need no copy of it."""

    def __init__(self, hidden: int, *, width: int = 0, speed: float = 1.0, trains: str = "head") -> None:
        super().__init__()
        last = nn.Linear(width or hidden, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(hidden, width), nn.SiLU(), last) if width else last
        self.speed, self.trains = speed, trains
        self.register_buffer("level", torch.zeros(()))

    def forward(self, hidden_MH: Tensor) -> Tensor:
        """Values (M,); the gradient ends at the hidden states unless it trains them too."""
        alone = self.trains == "head"
        seen_MH = (hidden_MH.detach() if alone else hidden_MH).to(next(self.parameters()).dtype)  # DeepSpeed casts them
        with torch.autocast(hidden_MH.device.type, enabled=False):
            value_M: Tensor = self.level.float() + self.speed * self.layers(seen_MH).float().squeeze(-1)
        return ALONE * value_M + (1 - ALONE) * value_M.detach() if alone else value_M


def critic_of(settings: Settings) -> Ppo | None:
    """The objective, if it learns values."""
    return settings.objective if getattr(settings.objective, "critic", False) else None


def add_value_head(model: PreTrainedModel, ppo: Ppo) -> None:
    """Give ``model`` its critic; call it before the model is wrapped and its optimizer made."""
    hidden = int(model.config.get_text_config().hidden_size)
    head = ValueHead(hidden, width=ppo.value_width, speed=ppo.value_speed, trains=ppo.value_trains)
    model.add_module(VALUE_HEAD, head.to(model.device))


def without_value_head(weights: Mapping[str, T]) -> dict[str, T]:
    """The weights, by name, of the language model alone."""
    return {name: weight for name, weight in weights.items() if not name.startswith(f"{VALUE_HEAD}.")}


def with_advantages(trainer: LaconicTrainer, updates: Sequence[Sequence[PackedBatch]]) -> list[list[PackedBatch]]:
    """The packs of a generation with values, returns and advantages; its metrics go to the trainer's."""
    ppo: Ppo = trainer.settings.objective
    if trainer.generation == 0:
        _begin_at_the_mean(trainer, updates)
    valued = [[with_values(trainer.model, pack, trainer.accelerator.device) for pack in packs] for packs in updates]
    filled = [[_estimate(ppo, pack) for pack in packs] for packs in valued]
    parts = [_moments(pack, advantage_N) for packs in filled for pack, advantage_N in packs]
    own = np.sum(parts, axis=0) if parts else np.zeros((3, 3))
    count, total, squares = np.sum(trainer.ranks.gather(own), axis=0).T
    mean = total / np.maximum(count, 1)
    variance = np.maximum(squares / np.maximum(count, 1) - mean**2, 0)
    explained = 1 - variance[2] / variance[1] if variance[1] > 0 else math.nan
    trainer._generation_metrics |= {
        "value/return": float(mean[1]),
        "value/error": float(mean[2]),
        "value/explained_variance": float(explained),
        "value/advantage_std": float(np.sqrt(variance[0])),
    }
    shift, scale = (mean[0], np.sqrt(variance[0]) + 1e-8) if ppo.whiten else (0.0, 1.0)
    policy = trainer.generation >= ppo.value_warmup
    return [
        [with_credit(pack, (advantage_N - shift) / scale, policy=policy) for pack, advantage_N in packs]
        for packs in filled
    ]


def _begin_at_the_mean(trainer: LaconicTrainer, updates: Sequence[Sequence[PackedBatch]]) -> None:
    """Set the level of a new head to the mean reward over the trained tokens of all ranks."""
    total = np.zeros(2)
    for pack in (pack for packs in updates for pack in packs):
        trained = pack.w_kl != 0
        # Both weights together are the row weight times the reward.
        reward_M = (pack.w_pos + pack.w_neg)[trained].astype(np.float64) / pack.w_kl[trained]
        total += len(reward_M), reward_M.sum()
    count, reward = np.sum(trainer.ranks.gather(total), axis=0)
    if count:
        head = getattr(causal_lm(trainer.accelerator.unwrap_model(trainer.model)), VALUE_HEAD)
        head.level.fill_(reward / count)


@torch.no_grad()
def with_values(model: Any, pack: PackedBatch, device: torch.device | str) -> PackedBatch:
    """The pack with the present values of its trained tokens; NaN elsewhere."""
    index_M, outputs = score_all(model, pack, device)
    assert outputs.value is not None
    value_N = np.full(len(pack), np.nan, np.float32)
    value_N[index_M] = outputs.value.float().cpu().numpy()
    return replace(pack, value=value_N)


def _estimate(ppo: Ppo, pack: PackedBatch) -> tuple[PackedBatch, F64]:
    """The pack with its returns, and the advantage of each token (N,)."""
    assert pack.value is not None
    spans = pack.trees
    lengths = [stop - start for start, stop in spans]
    reward_BT, value_BT = np.zeros((2, len(spans), max(lengths)))
    trained_BT = np.zeros(value_BT.shape, dtype=bool)
    trained = pack.w_kl != 0  # the row weight, whatever the reward
    for row, (start, stop) in enumerate(spans):
        here = np.flatnonzero(trained[start:stop])
        trained_BT[row, here] = True
        value_BT[row, here] = pack.value[start:stop][here]
        if len(here):
            last = start + here[-1]
            # Both weights together are the row weight times the reward.
            reward_BT[row, here[-1]] = (float(pack.w_pos[last]) + float(pack.w_neg[last])) / float(pack.w_kl[last])
    actor = length_adaptive_lambda(trained_BT.sum(1), ppo.length_adaptive) if ppo.length_adaptive else ppo.lambda_actor
    advantage_BT, critic_BT = (
        gae(reward_BT, value_BT, gamma=ppo.gamma, lambda_B=lambda_, trained_BT=trained_BT)
        for lambda_ in (actor, ppo.lambda_critic)
    )
    inside_BT = np.arange(max(lengths)) < np.array(lengths)[:, None]
    returns_N = np.where(trained, (critic_BT + value_BT)[inside_BT], np.nan).astype(np.float32)
    return replace(pack, returns=returns_N), advantage_BT[inside_BT]


def _moments(pack: PackedBatch, advantage_N: F64) -> F64:
    """Count, sum and sum of squares over the trained tokens, of advantages, returns and returns less values (3, 3)."""
    assert pack.value is not None and pack.returns is not None
    trained = pack.w_kl != 0
    return_M, value_M = pack.returns[trained].astype(np.float64), pack.value[trained].astype(np.float64)
    columns = np.stack([advantage_N[trained], return_M, return_M - value_M])
    return np.stack([np.full(3, float(trained.sum())), columns.sum(1), (columns**2).sum(1)], axis=1)


def with_credit(pack: PackedBatch, advantage_N: F64, *, policy: bool = True) -> PackedBatch:
    """The pack with the weights of these advantages; none, nor other pulls, where the policy is to stay."""
    weighted_N: F32 = (pack.w_kl * advantage_N if policy else np.zeros(len(pack))).astype(np.float32)
    w_nll, w_ent = (pack.w_nll, pack.w_ent) if policy else np.zeros((2, len(pack)), np.float32)
    return replace(pack, w_pos=np.maximum(weighted_N, 0), w_neg=np.minimum(weighted_N, 0), w_nll=w_nll, w_ent=w_ent)
