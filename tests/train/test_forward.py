"""Scoring a pack: each row as if it were alone, whatever it is packed with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from laconic.kernels.logprob_head import add_logprob_head
from laconic.train.forward import score, with_old_log_probs
from laconic.train.rows import flatten, to_packs

TOLERANCE = 2e-5
LENGTHS = [[5, 9, 1, 12], [3, 7], [20, 2, 2]]


def packs_of(groups, budget, advantages=None):
    count = sum(len(group.rollouts) for group in groups)
    advantages = np.linspace(-1, 1, count) if advantages is None else advantages
    return to_packs(flatten(groups, advantages, normalizer="row_mean", max_completion=64, keep_all=True), budget)


def log_probs_alone(model, ids, index, temperature):
    """Log-prob and entropy of token ``index`` of one unpadded row by a full softmax, in float64."""
    with torch.no_grad():
        logits_TV = model(input_ids=torch.tensor(ids)[None]).logits[0] / temperature
    log_p_V = logits_TV[index - 1].log_softmax(-1)
    return float(log_p_V[ids[index]]), float(-(log_p_V.exp() * log_p_V).sum())


@pytest.mark.parametrize("budget", [1, 40, 1000])
def test_every_token_scores_as_in_a_row_of_its_own_whatever_the_padding(flat_groups, tiny_qwen, budget):
    model, bare = tiny_qwen(), tiny_qwen()
    add_logprob_head(model, temperature=0.7)
    scored = 0
    for pack in packs_of(flat_groups(0, LENGTHS), budget):
        index_M, log_probs_M, entropy_M = score(model, pack, "cpu")
        np.testing.assert_array_equal(index_M, np.flatnonzero(pack.scored))
        for index, log_prob, entropy in zip(index_M, log_probs_M.tolist(), entropy_M.tolist(), strict=True):
            start, stop = next(span for span in pack.trees if span[0] <= index < span[1])
            want = log_probs_alone(bare, pack.ids[start:stop].tolist(), index - start, 0.7)
            assert (log_prob, entropy) == pytest.approx(want, abs=TOLERANCE)
        scored += len(index_M)
    assert scored == sum(map(sum, LENGTHS))


def test_gradients_do_not_depend_on_how_rows_are_packed(flat_groups, tiny_qwen):
    model = tiny_qwen()
    add_logprob_head(model)
    found = []
    for budget in (1, 60, 1000):
        model.zero_grad()
        for pack in packs_of(flat_groups(0, LENGTHS), budget):
            index_M, log_probs_M, entropy_M = score(model, pack, "cpu")
            weight_M = torch.from_numpy(pack.w_pos + pack.w_neg)[index_M]
            (weight_M * (log_probs_M - 0.1 * entropy_M)).sum().backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    for one, other, third in zip(*found, strict=True):
        assert (one - other).norm() <= TOLERANCE * one.norm() and (one - third).norm() <= TOLERANCE * one.norm()


def test_positions_and_padding_cost_no_attention_mask(flat_groups, tiny_qwen, monkeypatch):
    model, masks = tiny_qwen(), []
    add_logprob_head(model)
    attention = model.model.layers[0].self_attn.forward

    def spy(*args, **options):
        masks.append(options.get("attention_mask"))
        return attention(*args, **options)

    monkeypatch.setattr(model.model.layers[0].self_attn, "forward", spy)
    (pack,) = packs_of(flat_groups(0, LENGTHS), 1000)
    score(model, pack, "cpu")
    assert masks == [None]


def test_old_log_probs_can_be_taken_from_the_trainer_itself(flat_groups, tiny_qwen):
    model = tiny_qwen()
    add_logprob_head(model)
    (pack,) = packs_of(flat_groups(0, LENGTHS), 1000)
    rescored = with_old_log_probs(model, pack, "cpu")
    index_M, log_probs_M, _ = score(model, pack, "cpu")
    np.testing.assert_array_equal(rescored.old_logp[index_M], log_probs_M.detach().float().numpy())
    np.testing.assert_array_equal(np.isfinite(rescored.old_logp), pack.scored)


def test_a_pack_without_weights_scores_nothing_and_still_has_a_gradient(flat_groups, tiny_qwen):
    model = tiny_qwen()
    add_logprob_head(model)
    pack = packs_of(flat_groups(0, [[4, 4]]), 1000)[0]
    none = np.zeros_like(pack.w_kl)
    pack = replace(pack, w_pos=none, w_neg=none, w_kl=none, w_ent=none)
    index_M, log_probs_M, _ = score(model, pack, "cpu")
    assert len(index_M) == 0
    log_probs_M.sum().backward()
    assert all((parameter.grad == 0).all() for parameter in model.parameters())


def test_a_pack_with_branches_is_refused(flat_groups, tiny_qwen):
    (pack,) = packs_of(flat_groups(0, [[4, 4]]), 1000)
    pred = pack.pred.copy()
    pred[6] = 2
    with pytest.raises(ValueError, match="branches"):
        score(tiny_qwen(), replace(pack, pred=pred), "cpu")
