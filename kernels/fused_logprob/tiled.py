"""The head by tiles: a product of some tokens with some words, folded at once, never all logits.

    for words of the vocabulary:                    a slice of W is read once
        for tokens:                                 1,024 x 8,192 logits in float32: 32 MiB stay in a GPU's L2 cache
            tile = h W^T                            operands of 16 bits, sums and result of 32
            fold it (forward), or turn it into dz   folds.py, triton_fold.py
        dh += dz W,  dW = dz^T h                    over 4,096 tokens at a time, sums in float32

Logits are never rounded to 16 bits: at a size of 16 to 32 that moves them by up to 0.06. Saved for the backward pass:
operands and two numbers per token. Tokens without gradient (clipped, without weight) are left out of it. dW of a slice
of words is complete when the slice is done, so only one slice of it exists in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .folds import Folds, Transform, empty_sums

# Shapes: M tokens, H hidden size, V vocabulary, C words of a tile

TILE_TOKENS, TILE_WORDS = 1024, 8192
"""Tokens and words of a tile of logits; where the vocabulary is smaller, as many more tokens."""
CHUNK_TOKENS = 4096
"""Tokens whose gradients along the logits exist at once; their products with W and h are then large enough."""

Gather = Callable[..., AbstractContextManager[Any]]
"""Within ``gather(weight, bias)`` both are whole, where they are sharded."""


class TiledLogProb(torch.autograd.Function):
    """``(log_probs_M, entropy_M)``, in float32 or, for operands in float64, in float64."""

    @staticmethod
    def forward(
        ctx: Any, hidden_MH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_M: Tensor, transform: Transform,
        folds: Folds, gather: Gather,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        # Entropy is often only logged; its gradient would otherwise arrive as zeros.
        ctx.set_materialize_grads(False)
        ctx.operand, exact = operand_type(hidden_MH), log_type(hidden_MH)
        tokens = len(hidden_MH)
        sums = empty_sums(hidden_MH.new_empty(tokens, dtype=exact))
        h_MH = hidden_MH.to(ctx.operand)
        tile = _tile_tokens(len(weight_VH))
        buffer = hidden_MH.new_empty(min(tokens, tile) * min(len(weight_VH), TILE_WORDS), dtype=exact)
        with torch.autocast(hidden_MH.device.type, enabled=False):  # it would round the sums of the folds too
            for words in _slices(len(weight_VH), TILE_WORDS):
                w_CH = weight_VH[words].to(ctx.operand)
                for rows in _slices(tokens, tile):
                    tile_MC = _product(h_MH[rows], w_CH, bias_V, words, buffer)
                    folds.forward(tile_MC, targets_M[rows], words.start, sums[rows], transform)
        log_z_M = sums.top_M + sums.total_M.log()
        entropy_M = log_z_M - sums.weighted_M / sums.total_M
        ctx.save_for_backward(hidden_MH, weight_VH, bias_V, targets_M, log_z_M, entropy_M)
        ctx.transform, ctx.folds, ctx.gather = transform, folds, gather
        return sums.target_M - log_z_M, entropy_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_logp_M: Tensor | None, by_entropy_M: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden_MH, weight_VH, bias_V, targets_M, log_z_M, entropy_M = ctx.saved_tensors
        with ctx.gather(weight_VH, bias_V):
            grads = _Gradients(ctx, hidden_MH, weight_VH, bias_V)
            wanted = [grad for grad in (by_logp_M, by_entropy_M) if grad is not None]
            kept = _with_gradient(wanted)
            if kept is not None:
                targets_M, log_z_M, entropy_M = targets_M[kept], log_z_M[kept], entropy_M[kept]
                by_logp_M, by_entropy_M = (None if g is None else g[kept] for g in (by_logp_M, by_entropy_M))
            h_MH = (hidden_MH if kept is None else hidden_MH[kept]).to(ctx.operand)
            by_logp_M, by_entropy_M = (None if g is None else g.contiguous() for g in (by_logp_M, by_entropy_M))

            def gradient(tile_MC: Tensor, rows: slice, first: int, out_MC: Tensor) -> None:
                given = [None if g is None else g[rows] for g in (by_logp_M, by_entropy_M)]
                ctx.folds.backward(
                    tile_MC, targets_M[rows], first, log_z_M[rows], entropy_M[rows], *given, ctx.transform, out_MC
                )

            grads.run(h_MH, gradient)
        return *grads.results(kept), None, None, None, None


class _Gradients:
    """Gradients of hidden states, weight and bias, those that are asked for."""

    def __init__(self, ctx: Any, hidden_MH: Tensor, weight_VH: Tensor, bias_V: Tensor | None) -> None:
        self.operand, self.exact = ctx.operand, log_type(hidden_MH)
        self.hidden_MH, self.weight_VH, self.bias_V = hidden_MH, weight_VH, bias_V
        self.wants = ctx.needs_input_grad[:3]
        self.by_weight_VH = torch.empty_like(weight_VH) if self.wants[1] else None
        self.by_bias_V = torch.zeros_like(bias_V, dtype=self.exact) if self.wants[2] and bias_V is not None else None
        self.by_hidden_MH: Tensor | None = None

    def run(self, h_MH: Tensor, gradient: Callable[[Tensor, slice, int, Tensor], None]) -> None:
        """Add up what ``gradient`` makes of the tiles of the tokens in ``h_MH``."""
        tokens, width, words_in_tile = len(h_MH), h_MH.shape[1], min(len(self.weight_VH), TILE_WORDS)
        if self.wants[0]:
            self.by_hidden_MH = h_MH.new_zeros((tokens, width), dtype=self.exact)
        tile_tokens = _tile_tokens(len(self.weight_VH))
        chunk_tokens = max(CHUNK_TOKENS, tile_tokens)
        in_place = self.operand == self.exact
        tile = h_MH.new_empty(0 if in_place else min(tokens, tile_tokens) * words_in_tile, dtype=self.exact)
        dz = h_MH.new_empty(min(tokens, chunk_tokens) * words_in_tile, dtype=self.operand)
        for words in _slices(len(self.weight_VH), TILE_WORDS):
            w_CH = self.weight_VH[words].to(self.operand)
            by_w_CH = self._start(words)
            for chunk in _slices(tokens, chunk_tokens):
                dz_MC = dz[: (chunk.stop - chunk.start) * len(w_CH)].view(-1, len(w_CH))
                for rows in _slices(chunk.stop, tile_tokens, chunk.start):
                    out_MC = dz_MC[rows.start - chunk.start : rows.stop - chunk.start]
                    memory = out_MC.view(-1) if in_place else tile
                    gradient(_product(h_MH[rows], w_CH, self.bias_V, words, memory), rows, words.start, out_MC)
                if self.by_hidden_MH is not None:
                    _add_product(self.by_hidden_MH[chunk], dz_MC, w_CH)
                if by_w_CH is not None:
                    _add_product(by_w_CH, dz_MC.T, h_MH[chunk])
                if self.by_bias_V is not None:
                    self.by_bias_V[words] += dz_MC.sum(0, dtype=self.exact)
            if self.by_weight_VH is not None and self.by_weight_VH.dtype != self.exact:
                self.by_weight_VH[words] = by_w_CH

    def _start(self, words: slice) -> Tensor | None:
        """Zeros to add up the gradient of these rows of the weight in: the gradient's own memory if its type allows."""
        if self.by_weight_VH is None:
            return None
        rows = self.by_weight_VH[words]
        return rows.zero_() if rows.dtype == self.exact else torch.zeros_like(rows, dtype=self.exact)

    def results(self, kept: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """In the types of what they belong to; tokens that were left out have a gradient of 0."""
        by_hidden_MH = self.by_hidden_MH
        if by_hidden_MH is not None:
            by_hidden_MH = by_hidden_MH.to(self.hidden_MH.dtype)
            if kept is not None:
                by_hidden_MH = torch.zeros_like(self.hidden_MH).index_copy_(0, kept, by_hidden_MH)
        by_bias_V = None if self.bias_V is None or self.by_bias_V is None else self.by_bias_V.to(self.bias_V.dtype)
        return by_hidden_MH, self.by_weight_VH, by_bias_V


def log_type(hidden_MH: Tensor) -> torch.dtype:
    """The type of logits, sums and results."""
    return torch.float64 if hidden_MH.dtype == torch.float64 else torch.float32


def operand_type(hidden_MH: Tensor) -> torch.dtype:
    """The type that hidden states and weights are multiplied in."""
    device = hidden_MH.device.type
    if torch.is_autocast_enabled(device) and hidden_MH.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden_MH.dtype


def _with_gradient(grads: list[Tensor]) -> Tensor | None:
    """Indices of the tokens that have one; None where leaving out the others would not pay."""
    some_M = torch.stack([grad != 0 for grad in grads]).any(0) if grads else None
    if some_M is None or len(some_M) < 256:
        return None
    kept = some_M.nonzero()[:, 0]
    return kept if len(kept) < 0.9 * len(some_M) else None


def _tile_tokens(vocabulary: int) -> int:
    return TILE_TOKENS * max(1, TILE_WORDS // max(1, vocabulary))


def _slices(stop: int, size: int, start: int = 0) -> Iterator[slice]:
    for first in range(start, stop, size):
        yield slice(first, min(first + size, stop))


def _product(h_MH: Tensor, w_CH: Tensor, bias_V: Tensor | None, words: slice, buffer: Tensor) -> Tensor:
    """h w^T + b in the type of ``buffer``, and in its memory."""
    out_MC = buffer[: len(h_MH) * len(w_CH)].view(len(h_MH), len(w_CH))
    if h_MH.dtype == out_MC.dtype:
        torch.mm(h_MH, w_CH.T, out=out_MC)
    elif h_MH.is_cuda:
        torch.mm(h_MH, w_CH.T, out_dtype=out_MC.dtype, out=out_MC)
    else:
        torch.mm(h_MH.to(out_MC.dtype), w_CH.T.to(out_MC.dtype), out=out_MC)
    return out_MC if bias_V is None else out_MC.add_(bias_V[words].to(out_MC.dtype))


def _add_product(sum_: Tensor, a: Tensor, b: Tensor) -> None:
    """``sum_ += a b`` without rounding the product to 16 bits first, which would bias training."""
    if a.dtype == sum_.dtype:
        sum_.addmm_(a, b)
    elif a.is_cuda:
        torch.addmm(sum_, a, b, out_dtype=sum_.dtype, out=sum_)
    else:
        sum_.addmm_(a.to(sum_.dtype), b.to(sum_.dtype))
