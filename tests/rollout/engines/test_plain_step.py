"""The plain step computes what the model's own forward does, and keeps away from what it does not know."""

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import MODELS, make, prompts, request, run

from laconic.kernels.logprob_head import add_logprob_head
from laconic.rollout.engines.plain_step import plain_step
from laconic.rollout.engines.transformers import TransformersEngine


@pytest.mark.parametrize("kind", MODELS)
def test_tokens_and_log_probs_are_the_forwards(kind, monkeypatch):
    asked = [request(index, context) for index, context in enumerate(prompts(24))]
    plain = TransformersEngine(MODELS[kind], [])
    assert plain._plain is not None
    monkeypatch.setattr("laconic.rollout.engines.transformers.plain_step", lambda model: None)
    ordinary = TransformersEngine(MODELS[kind], [])
    assert ordinary._plain is None
    for ours, theirs in zip(run(plain, asked), run(ordinary, asked), strict=True):
        assert np.array_equal(ours.ids, theirs.ids)
        assert np.abs(ours.logp - theirs.logp).max() < 1e-5


def test_weights_may_change_under_it(monkeypatch):
    model = copy.deepcopy(MODELS["qwen2"])
    engine, asked = TransformersEngine(model, []), [request(0, prompts(1)[0])]
    before = run(engine, asked)[0].ids
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    engine.sync(None, 1)
    after = run(engine, asked)[0]
    monkeypatch.setattr("laconic.rollout.engines.transformers.plain_step", lambda model: None)
    wanted = run(TransformersEngine(model, []), asked)[0]
    assert not np.array_equal(before, after.ids) and np.array_equal(after.ids, wanted.ids)
    assert np.abs(after.logp - wanted.logp).max() < 1e-5


def test_the_log_prob_head_leaves_decoding_alone():
    model = copy.deepcopy(MODELS["qwen2"])
    add_logprob_head(model)
    assert plain_step(model) is not None
    model.forward = torch.no_grad()(model.forward)
    assert plain_step(model) is None


def _hooked(model):
    model.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    return model


def _patched(model):
    model.model.norm.forward = model.model.norm.forward
    return model


def _watched(model):
    model.register_forward_pre_hook(lambda *_: None)
    return model


def _adapted(model):
    return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).base_model.model


@pytest.mark.parametrize("change", [_hooked, _patched, _watched, _adapted, torch.nn.Module.bfloat16])
def test_it_keeps_away_from_what_it_does_not_know(change):
    assert plain_step(change(copy.deepcopy(MODELS["qwen2"]))) is None


def test_it_keeps_away_from_sliding_windows():
    assert plain_step(make("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=0)) is None
