"""The log-prob head against log_softmax over the whole vocabulary, values and gradients."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from laconic.errors import ConfigError
from laconic.kernels import logprob_head
from laconic.kernels.api import LogProbOutput, add_logprob_head
from laconic.kernels.fused_logprob import tiled

TOLERANCE = 1e-10
SIZES = dict(
    vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    intermediate_size=32, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, head_dim=8,
)  # fmt: skip


def qwen(tied: bool = False) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=tied)).double()
    return spread(model)


def qwen_with_bias() -> Qwen2ForCausalLM:
    model = qwen()
    model.lm_head = nn.Linear(16, 50, bias=True).double()
    nn.init.normal_(model.lm_head.bias)
    return model


def gemma() -> Gemma2ForCausalLM:
    torch.manual_seed(0)
    return spread(Gemma2ForCausalLM(Gemma2Config(**SIZES, final_logit_softcapping=2.0)).double())


def granite() -> GraniteForCausalLM:
    torch.manual_seed(0)
    return spread(GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=3.0)).double())


def spread(model):
    """Large weights, so that distributions are far from uniform."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.dim() > 1 else 1)
    return model.eval()


MODELS = {"untied": qwen, "tied": lambda: qwen(True), "bias": qwen_with_bias, "soft cap": gemma, "scaled": granite}


def inputs() -> dict[str, Tensor]:
    """Five targets, two of them predicted from the same position, as at a branch point."""
    generator = torch.Generator().manual_seed(1)
    return dict(
        input_ids=torch.randint(3, 50, (2, 7), generator=generator),
        pred=torch.tensor([0, 3, 3, 8, 12]),
        targets=torch.tensor([5, 49, 0, 17, 3]),
    )


def plain(model, ids_BT, pred, targets, temperature) -> tuple[Tensor, Tensor]:
    logits_MV = model(input_ids=ids_BT).logits.flatten(0, 1)[pred] / temperature
    log_p_MV = logits_MV.log_softmax(-1)
    return log_p_MV.gather(1, targets[:, None])[:, 0], -(log_p_MV.exp() * log_p_MV).sum(-1)


def gradients(model) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("tile", [8192, 16])
def test_values_and_gradients_equal_those_of_a_full_softmax(name, temperature, tile, monkeypatch):
    monkeypatch.setattr(tiled, "TILE_WORDS", tile)
    model, given = MODELS[name](), inputs()
    weight_M = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0], dtype=torch.float64)
    want_logp_M, want_entropy_M = plain(model, given["input_ids"], given["pred"], given["targets"], temperature)
    ((want_logp_M + 0.3 * want_entropy_M) * weight_M).sum().backward()
    want = gradients(model)

    add_logprob_head(model, temperature)
    model.zero_grad()
    out = model(**given, logprob_head=True)
    assert isinstance(out, LogProbOutput) and out.log_probs.dtype == out.entropy.dtype == torch.float64
    ((out.log_probs + 0.3 * out.entropy) * weight_M).sum().backward()
    torch.testing.assert_close(out.log_probs.double(), want_logp_M.detach(), rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(out.entropy.double(), want_entropy_M.detach(), rtol=TOLERANCE, atol=TOLERANCE)
    got = gradients(model)
    assert got.keys() == want.keys()
    for key in want:
        error = (got[key] - want[key]).norm() / (want[key].norm() + 1e-12)
        assert error < TOLERANCE, f"{key}: {error:.1e}"


def test_worked_numbers_of_four_words():
    model = qwen()
    head = nn.Linear(16, 4, bias=False).double()
    with torch.no_grad():
        head.weight.zero_()
        head.weight[:, 0] = torch.tensor([2.0, 1.0, 0.0, -1.0])
    hidden_MH = torch.zeros(1, 16, dtype=torch.float64)
    hidden_MH[0, 0] = 1.0
    model.lm_head = head
    out = logprob_head._log_probs(hidden_MH, head, torch.tensor([1]), 0.5, 1.0, None)
    assert [x.item() for x in out] == pytest.approx([-2.14508, 0.45543], abs=1e-5)
    by_logp, by_entropy = (
        torch.autograd.grad(x, head.weight, retain_graph=True)[0][:, 0].tolist() for x in out
    )  # fmt: skip
    assert by_logp == pytest.approx([-1.72991, 1.76588, -0.03168, -0.00429], abs=1e-5)
    assert by_entropy == pytest.approx([-0.53688, 0.39558, 0.11690, 0.02440], abs=1e-5)


def test_no_tokens_give_empty_results_that_take_part_in_the_backward_pass():
    model = qwen()
    add_logprob_head(model)
    none = torch.empty(0, dtype=torch.long)
    out = model(input_ids=torch.ones(1, 2, dtype=torch.long), pred=none, targets=none, logprob_head=True)
    assert out.log_probs.shape == out.entropy.shape == (0,)
    (out.log_probs.sum() + out.entropy.sum()).backward()
    assert set(gradients(model)) == {name for name, _ in model.named_parameters()}
    assert all((grad == 0).all() for grad in gradients(model).values())


def test_without_the_flag_forward_and_generation_are_unchanged():
    patched, bare = qwen(), qwen()
    add_logprob_head(patched)
    ids = inputs()["input_ids"]
    torch.testing.assert_close(patched(input_ids=ids).logits, bare(input_ids=ids).logits, rtol=0, atol=0)
    options = dict(max_new_tokens=5, do_sample=False)
    assert patched.generate(ids, **options).tolist() == bare.generate(ids, **options).tolist()


def test_an_adapter_put_on_afterwards_is_scored_and_trained():
    model = qwen()
    add_logprob_head(model)
    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False)).double()
    given = inputs()
    want_logp_M, _ = plain(wrapped, given["input_ids"], given["pred"], given["targets"], 1.0)
    out = wrapped(**given, logprob_head=True)
    torch.testing.assert_close(out.log_probs.double(), want_logp_M, rtol=TOLERANCE, atol=TOLERANCE)
    out.log_probs.sum().backward()
    assert gradients(wrapped) and all("lora" in name for name in gradients(wrapped))


def test_an_adapter_on_the_head_is_refused_instead_of_ignored():
    model = qwen()
    add_logprob_head(model)
    wrapped = get_peft_model(model, LoraConfig(target_modules=["lm_head"], r=2))
    with pytest.raises(ConfigError, match="lm_head out of the PEFT target modules"):
        wrapped(**inputs(), logprob_head=True)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ConfigError, match="temperature"):
        add_logprob_head(qwen(), 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_of_lower_precision_gets_log_probs_in_float32(dtype):
    model, given = qwen().to(dtype), inputs()
    want_logp_M, want_entropy_M = plain(
        qwen().to(dtype).double(), given["input_ids"], given["pred"], given["targets"], 1.0
    )
    add_logprob_head(model)
    out = model(**given, logprob_head=True)
    assert out.log_probs.dtype == out.entropy.dtype == torch.float32
    assert (out.log_probs - want_logp_M).abs().max() < (1e-4 if dtype == torch.float32 else 1.0)
    out.log_probs.sum().backward()
    assert {grad.dtype for grad in gradients(model).values()} == {dtype}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_words_beyond_the_vocabulary_have_no_probability_and_no_gradient(temperature):
    plain, patched = qwen(), qwen()
    known = plain.config.vocab_size - 7
    add_logprob_head(patched, temperature, vocabulary=known)
    ids = torch.arange(1, 9).reshape(1, 8)
    pred, targets = torch.arange(7), ids[0, 1:]
    output = patched(input_ids=ids, pred=pred, targets=targets, logprob_head=True)
    log_p = (plain(input_ids=ids).logits[0, :7, :known] / temperature).log_softmax(-1)
    want = log_p[torch.arange(7), targets]
    torch.testing.assert_close(output.log_probs, want, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.entropy, -(log_p.exp() * log_p).sum(-1), atol=1e-5, rtol=0)
    output.log_probs.sum().backward()
    want.sum().backward()
    found, wanted = patched.get_output_embeddings().weight.grad, plain.get_output_embeddings().weight.grad
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert (found[known:] == 0).all()
