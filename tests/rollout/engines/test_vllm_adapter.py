"""Adapter-only sync: the base comes once, then only LoRA matrices; heads that are made wider keep their adapter."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM
from vllm_models import BLOCK, EOS, REAL, make, narrow, prompts, request, run, scored

from laconic.rollout.engines import vllm_adapter
from laconic.rollout.engines.protocol import Sampling
from laconic.rollout.engines.vllm_heads import wider

EVERY = sorted(vllm_adapter.LAYERS)


def adapt(model, targets=EVERY, **options):
    """Returns the bare model, which has LoRA layers then."""
    get_peft_model(model, LoraConfig(r=3, lora_alpha=6, target_modules=targets, init_lora_weights=False, **options))
    move(model)
    return model.eval()


def move(model):
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.2)


def test_what_is_written_is_the_adapter_of_the_wider_model(tmp_path):
    from peft import PeftModel

    model = adapt(narrow())
    vllm_adapter.write_base(model, tmp_path, wide=True)
    vllm_adapter.write_adapter(model, tmp_path / "adapter", wide=True)
    config = wider(model.config)
    config.save_pretrained(tmp_path)
    wide = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tmp_path), str(tmp_path / "adapter")).eval()
    ids = torch.arange(2, 92)[None]
    with torch.no_grad():
        torch.testing.assert_close(wide(ids).logits, model(ids).logits, atol=1e-3, rtol=1e-4)


def test_adapters_that_vllm_does_not_take_are_merged_instead():
    assert vllm_adapter.adapter_rank(make(True)) is None
    assert vllm_adapter.adapter_rank(adapt(make(True))) == 3 and vllm_adapter.engine_rank(3) == 8
    assert vllm_adapter.adapter_rank(adapt(make(True), ["q_proj", "embed_tokens"])) is None
    assert vllm_adapter.adapter_rank(adapt(make(True), ["q_proj", "v_proj"], rank_pattern={"v_proj": 2})) is None


@pytest.mark.vllm
@pytest.mark.parametrize("kind", [lambda: make(False), narrow], ids=["untied", "wider_heads"])
def test_new_matrices_replace_the_old_and_their_prefixes(kind, monkeypatch):
    from laconic.rollout.engines.vllm_colocated import VllmEngine

    model = adapt(kind())
    engine = VllmEngine(model, [EOS], max_live=8, max_context=400, allowed_vocab=REAL)
    sent = []
    monkeypatch.setattr(engine, "_load", lambda weights: sent.append(weights))
    context = prompts(1, 4 * BLOCK + 1, 4 * BLOCK + 2, seed=5)[0]
    for version in (1, 2):
        move(model)
        engine.sync(None, version)
        assert engine.mismatch < 1e-3
        for cached in (0, 4 * BLOCK):
            (done,) = run(engine, [request(0, context, 8, Sampling(1.3))])
            np.testing.assert_allclose(done.logp, scored(model, context, done.ids, 1.3), atol=1e-3, rtol=0)
            assert done.cost.cached == cached
    # the adapter's name is part of the cache's keys: even without the reset nothing old is read
    move(model)
    monkeypatch.setattr(engine, "_drop_caches", lambda: None)
    engine.sync(None, 3)
    assert run(engine, [request(0, context, 8)])[0].cost.cached == 0 and not sent
    with pytest.raises(ValueError, match="model's own adapter only"):
        engine.sync(model.state_dict(), 4)
    engine.close()
