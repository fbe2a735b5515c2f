"""Norms of the embedding's gradient from one batched pass equal those of a backward pass per answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from laconic.kernels.logprob_head import add_logprob_head
from laconic.train.samplers.gradient_norms import embedding_norms


def norms_one_by_one(model, groups):
    """``|| d(-log pi(y|x)) / d E ||`` of each rollout by autograd, of a model whose head is not tied to E."""
    norms, weight = [], model.get_input_embeddings().weight
    for group in groups:
        for rollout in group.rollouts:
            segment = group.leaves[rollout.leaves[0]].segment
            ids = torch.from_numpy(group.context_ids(segment).astype(np.int64))[None]
            log_probs = torch.log_softmax(model(input_ids=ids).logits[0, :-1], -1)
            chosen = log_probs.gather(1, ids[0, 1:, None])[:, 0][len(group.segments[0]) - 1 :]
            (grad,) = torch.autograd.grad(-chosen.sum(), weight)
            norms.append(float(grad.norm()))
    return np.array(norms)


@pytest.fixture
def untied(tiny_qwen):
    model = tiny_qwen(3)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    add_logprob_head(model)
    return model


@pytest.mark.parametrize("tokens", [1, 40, 10_000])
def test_norms_equal_those_of_a_pass_per_answer(untied, flat_groups, tokens):
    groups = flat_groups(0, [[3, 9, 1], [6, 12]])
    before = {name: value.clone() for name, value in untied.state_dict().items()}
    chosen = np.array([True, True, False, True, True])
    norms = embedding_norms(untied, groups, chosen, tokens, "cpu")
    np.testing.assert_allclose(norms, np.where(chosen, norms_one_by_one(untied, groups), 0), rtol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in untied.state_dict().items())
    assert all(parameter.grad is None for parameter in untied.parameters())


def test_frozen_weights_have_norms_too(untied, flat_groups):
    groups, every = flat_groups(1, [[4, 7]]), np.ones(2, dtype=bool)
    wanted = embedding_norms(untied, groups, every, 1000, "cpu")
    untied.requires_grad_(False)
    np.testing.assert_allclose(embedding_norms(untied, groups, every, 1000, "cpu"), wanted)
    assert wanted.min() > 0


def test_without_a_right_answer_nothing_is_computed(untied, flat_groups):
    groups = flat_groups(2, [[4, 7]])
    assert embedding_norms(untied, groups, np.zeros(2, dtype=bool), 1000, "cpu").tolist() == [0, 0]
