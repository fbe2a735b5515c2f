"""How strongly each right answer pulls at the weights: the norm of the gradient of its -log pi, or a proxy.

    embedding     || d(-log pi(y|x)) / d E ||     E the input embeddings; log pi summed over the answer's trained tokens
    sqrt_length   sqrt(trained tokens)

The gradient with respect to E has one row per word: the sum, over the positions where the word stands, of the gradient
with respect to the embedding at that position. Rows of a batch do not see each other, so one forward and backward pass
gives the norms of all of them, without a gradient of any weight. An output head that is tied to E adds nothing here.

Source of ``embedding``: RLHFlow/GVM em/stage_2_calc_acceptRates_grads.py, which runs a backward pass per answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...rollout.records import Group
from ..forward import score
from ..rows import flatten, to_packs

# Shapes: N rollouts, groups one after another; B rows of a pack, T tokens of the longest, H hidden size, U words


def embedding_norms(
    model: Any, groups: Sequence[Group], chosen_N: NDArray[np.bool_], micro_batch_tokens: int, device: Any
) -> NDArray[np.float64]:
    """Norm for each chosen rollout, 0 for the others, float64 (N,). Each rollout must be of one row."""
    rollouts = [(group, rollout) for group in groups for rollout in group.rollouts]
    # The rollout's number in place of the group's id names it in the packs.
    alone = [rollouts[n][0].replace(id=n, rollouts=(rollouts[n][1],)) for n in np.flatnonzero(chosen_N).tolist()]
    rows = flatten(alone, np.ones(len(alone)), normalizer="constant", max_completion=1)
    norm_N = np.zeros(len(rollouts))
    training = model.training
    model.eval()  # checkpointing would not let the gradient of an inner value through
    try:
        for pack in to_packs(rows, micro_batch_tokens):
            ids_BT, grad_BTH = _gradient(model, pack, device)
            for row, (start, stop) in enumerate(pack.trees):
                words_T, grad_TH = ids_BT[row, : stop - start], grad_BTH[row, : stop - start]
                words_U, index_T = torch.unique(words_T, return_inverse=True)
                sums_UH = grad_TH.new_zeros(len(words_U), grad_TH.shape[1]).index_add_(0, index_T, grad_TH)
                norm_N[int(pack.group[start])] = float(sums_UH.norm())
    finally:
        model.train(training)
    return norm_N


def _gradient(model: Any, pack: Any, device: Any) -> tuple[Tensor, Tensor]:
    """Word ids (B, T) and the gradient of -log pi with respect to the embedding at each position, float (B, T, H)."""
    seen: list[Tensor] = []

    def keep(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        embedded = output.detach().requires_grad_()
        seen.extend((inputs[0], embedded))
        return embedded

    hook = model.get_input_embeddings().register_forward_hook(keep)
    try:
        with torch.enable_grad():
            _, log_probs_M, _ = score(model, pack, device)
            (grad_BTH,) = torch.autograd.grad(-log_probs_M.sum(), seen[1])
    finally:
        hook.remove()
    return seen[0], grad_BTH.float()
