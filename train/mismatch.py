"""Trust in the engine: how far its log-probs of the sampled tokens are from the trainer's under the same weights.

With d = log pi_trainer - log pi_engine per token, over the tokens that the current policy sampled:

    mean = mean |d|     max = max |d|     kl = mean(e^d - d - 1)     ratio_min, ratio_max = e^min(d), e^max(d)

``kl`` estimates KL(engine || trainer). The trainer's first forward pass of a generation is under the weights that
sampled, so the log-probs cost nothing. Rounding alone stays far below the limits; an engine with old weights, another
temperature or another attention mask does not. Tokens that an older policy sampled (a parked call) are left out.

Source of the estimate: http://joschu.net/blog/kl-approx.html (k3); of the danger: Fengyao, 2025, "Your efficient RL
framework secretly brings you off-policy RL training".

Shapes: N tokens of a pack, M scored ones.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import RunError
from .packed import I64, PackedBatch
from .ranks import Ranks
from .settings import RolloutSettings

log = logging.getLogger(__name__)

MAX_LOG_RATIO = 20.0
"""Where the exponential is cut off: one token with probability 0 must not hide the rest."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the mean difference, in nats per token."""

    alarm: float
    """A run warns above it, once ..."""
    stop: float
    """... and stops above this one."""


FLOAT32 = Limits(alarm=1e-3, stop=0.05)
"""Where engine and trainer compute in float32: they differ by about 1e-6."""
HALF = Limits(alarm=0.05, stop=0.3)
"""Where one of them computes in 16 bits: they differ by about 1e-2."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Sums and extremes over tokens; add those of packs and of ranks."""

    tokens: int = 0
    absolute: float = 0.0
    kl: float = 0.0
    lowest: float = math.inf
    highest: float = -math.inf

    def __add__(self, other: Mismatch) -> Mismatch:
        return Mismatch(
            self.tokens + other.tokens,
            self.absolute + other.absolute,
            self.kl + other.kl,
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
        )

    @property
    def mean(self) -> float:
        """NaN without tokens."""
        return self.absolute / self.tokens if self.tokens else math.nan

    def metrics(self, limits: Limits) -> dict[str, float]:
        """For the log; NaN (written as null) where no token was compared."""
        if not self.tokens:
            return dict.fromkeys((f"mismatch/{name}" for name in ("mean", "max", "kl", "ratio_min", "ratio_max")),
                                 math.nan) | {"mismatch/alarm": 0.0}  # fmt: skip
        return {
            "mismatch/mean": self.mean,
            "mismatch/max": max(abs(self.lowest), abs(self.highest)),
            "mismatch/kl": self.kl / self.tokens,
            "mismatch/ratio_min": _exp(self.lowest),
            "mismatch/ratio_max": _exp(self.highest),
            "mismatch/alarm": float(self.mean > limits.alarm),
        }


def compare(pack: PackedBatch, index_M: I64, log_probs_M: Tensor, policy_version: int) -> Mismatch:
    """Mismatch of one pack.

    Args:
        pack: has the engine's log-probs and the versions of the policies that sampled.
        index_M: positions of the scored tokens in it.
        log_probs_M: the trainer's log-probs of these, before any update of the generation.
        policy_version: the engine's; tokens of older ones are left out.
    """
    engine_M, version_M = pack.engine_logp[index_M].astype(np.float64), pack.policy_version[index_M]
    difference_M = log_probs_M.detach().double().cpu().numpy() - engine_M
    # Scored tokens that no engine sampled (imitated ones) have no log-prob to compare with.
    d_M = difference_M[(version_M == policy_version) & ~np.isnan(engine_M)]
    if not len(d_M):
        return Mismatch()
    kl_M = np.exp(np.clip(d_M, -MAX_LOG_RATIO, MAX_LOG_RATIO)) - d_M - 1
    return Mismatch(len(d_M), float(np.abs(d_M).sum()), float(kl_M.sum()), float(d_M.min()), float(d_M.max()))


class Trust:
    """Watches the mismatch of a run: ``see`` every pack of a generation's first update, then ``judge``."""

    def __init__(self, rollout: RolloutSettings, model: nn.Module, *, autocast: bool) -> None:
        """``autocast``: the trainer computes in 16 bits whatever the weights are."""
        numbers = {parameter.dtype for parameter in model.parameters()}
        default = HALF if autocast or numbers & {torch.float16, torch.bfloat16} else FLOAT32
        self.limits = Limits(
            default.alarm if rollout.mismatch_alarm is None else rollout.mismatch_alarm,
            default.stop if rollout.mismatch_stop is None else rollout.mismatch_stop,
        )
        self.engine, self.warned, self._seen = rollout.engine, False, Mismatch()

    def see(self, pack: PackedBatch, index_M: I64, log_probs_M: Tensor, policy_version: int) -> None:
        """Add one pack; the arguments are those of ``compare``."""
        self._seen += compare(pack, index_M, log_probs_M, policy_version)

    def judge(self, ranks: Ranks) -> dict[str, float]:
        """The metrics of all ranks' packs since the last call; warns once in a run.

        Raises:
            RunError: the mean difference is above the second limit, or not a number.
        """
        seen, self._seen = sum(ranks.gather(self._seen), Mismatch()), Mismatch()
        if not seen.tokens or seen.mean <= self.limits.alarm:
            return seen.metrics(self.limits)
        found = (
            f"rollout.engine {self.engine} and the trainer disagree by {seen.mean:.2g} nats per token in the mean over "
            f"{seen.tokens} tokens that the same weights sampled (by {max(-seen.lowest, seen.highest):.2g} at most)"
        )
        if not seen.mean <= self.limits.stop:
            raise RunError(
                f"{found}, more than rollout.mismatch_stop = {self.limits.stop:g}: answers do not come from the policy "
                "that is trained; set rollout.engine=transformers, or raise rollout.mismatch_stop to go on all the same"
            )
        if not self.warned and ranks.first:
            log.warning(
                "%s, more than rollout.mismatch_alarm = %g; objective.old=recompute corrects for it token by token, "
                "and the metrics mismatch/* tell how it goes on", found, self.limits.alarm,
            )  # fmt: skip
        self.warned = True
        return seen.metrics(self.limits)


def _exp(value: float) -> float:
    return math.exp(min(max(value, -MAX_LOG_RATIO), MAX_LOG_RATIO))
