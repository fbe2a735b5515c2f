"""What happens to one tile of logits, in torch: fold it into running sums, or turn it into its gradient.

Forward, over tiles of the vocabulary, with m the running maximum:

    m' = max(m, max z)    s = s e^(m - m') + sum e^(z - m')    x = x e^(m - m') + sum z e^(z - m')

so that at the end log Z = m + log s and the entropy is log Z - x / s. Backward, with p = e^(z - log Z):

    dz_v = gl (1[v = target] - p_v) - ge p_v (log p_v + entropy)
    dy_v = dz_v (1 - tanh^2) scale / temperature
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# Shapes: M tokens of a tile, C words of a tile


@dataclass(frozen=True, slots=True)
class Transform:
    """From a product of hidden state and weight row to the logit that the softmax sees."""

    temperature: float
    scale: float
    soft_cap: float | None

    @property
    def factor(self) -> float:
        """What multiplies a logit without soft cap."""
        return self.scale / self.temperature


@dataclass(frozen=True, slots=True)
class Sums:
    """Running sums of some tokens; slices share memory with the whole."""

    top_M: Tensor
    total_M: Tensor
    weighted_M: Tensor
    target_M: Tensor
    """Logit of the target once its tile has come."""

    def __getitem__(self, rows: slice) -> Sums:
        return Sums(self.top_M[rows], self.total_M[rows], self.weighted_M[rows], self.target_M[rows])


class Folds(Protocol):
    """The two operations on a tile; ``first`` is the vocabulary index of its first column."""

    def forward(self, tile_MC: Tensor, targets_M: Tensor, first: int, sums: Sums, transform: Transform) -> None:
        """Add the tile to ``sums``; the tile may be overwritten."""

    def backward(
        self, tile_MC: Tensor, targets_M: Tensor, first: int, log_z_M: Tensor, entropy_M: Tensor,
        by_logp_M: Tensor | None, by_entropy_M: Tensor | None, transform: Transform, out_MC: Tensor,
    ) -> None:  # fmt: skip
        """Write the gradient along the product into ``out_MC``, which may be the tile itself."""


class TorchFolds:
    """The operations in torch, in place where they can be."""

    def forward(self, tile_MC: Tensor, targets_M: Tensor, first: int, sums: Sums, transform: Transform) -> None:
        z_MC = _logits(tile_MC, transform)[0]
        column_M = targets_M - first
        inside_M = (column_M >= 0) & (column_M < z_MC.shape[1])
        picked_M = z_MC.gather(1, column_M.clamp(0, z_MC.shape[1] - 1)[:, None])[:, 0]
        sums.target_M.copy_(torch.where(inside_M, picked_M, sums.target_M))
        top_M = torch.maximum(sums.top_M, z_MC.amax(1))
        shrink_M = (sums.top_M - top_M).exp()
        e_MC = torch.sub(z_MC, top_M[:, None]).exp_()
        sums.total_M.mul_(shrink_M).add_(e_MC.sum(1))
        sums.weighted_M.mul_(shrink_M).add_(torch.linalg.vecdot(e_MC, z_MC))
        sums.top_M.copy_(top_M)

    def backward(
        self, tile_MC: Tensor, targets_M: Tensor, first: int, log_z_M: Tensor, entropy_M: Tensor,
        by_logp_M: Tensor | None, by_entropy_M: Tensor | None, transform: Transform, out_MC: Tensor,
    ) -> None:  # fmt: skip
        z_MC, tanh_MC = _logits(tile_MC, transform)
        log_p_MC = z_MC.sub_(log_z_M[:, None])
        # p (-gl - ge (log p + entropy)), and gl more at the target
        if by_entropy_M is None:
            grad_MC = log_p_MC.exp_()
            grad_MC.mul_(by_logp_M.neg()[:, None]) if by_logp_M is not None else grad_MC.zero_()
        else:
            constant_M = -by_entropy_M * entropy_M if by_logp_M is None else -by_logp_M - by_entropy_M * entropy_M
            p_MC = log_p_MC.exp()
            grad_MC = log_p_MC.mul_(by_entropy_M.neg()[:, None]).add_(constant_M[:, None]).mul_(p_MC)
        if by_logp_M is not None:
            column_M = targets_M - first
            inside_M = (column_M >= 0) & (column_M < z_MC.shape[1])
            at_target_M = torch.where(inside_M, by_logp_M, torch.zeros_like(by_logp_M))
            grad_MC.scatter_add_(1, column_M.clamp(0, z_MC.shape[1] - 1)[:, None], at_target_M[:, None])
        if tanh_MC is not None:
            grad_MC.mul_(1 - tanh_MC**2)
        if transform.factor != 1:
            grad_MC.mul_(transform.factor)
        if out_MC is not grad_MC:
            out_MC.copy_(grad_MC)


def _logits(tile_MC: Tensor, transform: Transform) -> tuple[Tensor, Tensor | None]:
    """Logits, in place of the tile, and the tanh of a soft cap."""
    if transform.soft_cap is None:
        return (tile_MC if transform.factor == 1 else tile_MC.mul_(transform.factor)), None
    tanh_MC = tile_MC.mul_(transform.scale / transform.soft_cap).tanh_()
    return tanh_MC * (transform.soft_cap / transform.temperature), tanh_MC


def empty_sums(like_M: Tensor) -> Sums:
    """Sums over no words."""
    zeros = [torch.zeros_like(like_M) for _ in range(3)]
    return Sums(torch.full_like(like_M, -math.inf), *zeros)
