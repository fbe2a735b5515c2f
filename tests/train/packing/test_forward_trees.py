"""The packed forward in the models of transformers: which take trees, which are refused, and by what name."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from random_groups import random_group, rows_of
from sides import loss_and_gradients, with_constants, worst_difference
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from laconic.errors import ConfigError
from laconic.kernels.logprob_head import add_logprob_head
from laconic.train.forward import score
from laconic.train.objectives import Clip
from laconic.train.packing import attention
from laconic.train.packing.attention import TREE_ATTENTION, layout_of, takes_trees, use_tree_attention
from laconic.train.packing.budget import to_tree_packs
from laconic.train.packing.refusals import refusal
from laconic.train.packing.self_test import why_it_fails
from laconic.train.packing.trie import to_tries
from laconic.train.rows import to_packs

SIZE = dict(
    vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
    intermediate_size=32, max_position_embeddings=128, pad_token_id=0, bos_token_id=None, eos_token_id=1,
)  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
FAMILIES = {
    "qwen2": {}, "qwen3": {}, "llama": {}, "mistral": {"sliding_window": None}, "phi3": {}, "phi": {},
    "gemma": {}, "gemma3_text": {"sliding_window": 64}, "olmo2": {}, "smollm3": {}, "granite": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}  # fmt: skip


def model_of(kind: str, attention: str = "sdpa", *, attends: float = 1.0, **options):
    """A random model with distributions that are far from uniform; ``attends``: factor on what attention adds."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZE, **options})
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(6 if parameter.dim() > 1 else 1)
            parameter.mul_(attends if "o_proj" in name else 1)
    add_logprob_head(model, temperature=0.7)
    return model


def two_sides(seed: int = 4, budget: int = 30):
    rng = random.Random(seed)
    rows = rows_of([random_group(rng, number) for number in range(2)], rng)
    return [[with_constants(p) for p in packs] for packs in (to_packs(rows, 60), to_tree_packs(to_tries(rows), budget))]


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_that_takes_trees_trains_on_them_as_on_rows(kind):
    model = model_of(kind, **FAMILIES[kind])
    assert refusal(model.config.to_dict(), 40) is None
    assert why_it_fails(model, "cpu", 32) is None and takes_trees(model)
    rows, trees = two_sides()
    assert len(trees) > 1
    loss, gradients = loss_and_gradients(model, rows, Clip(entropy=0.25))
    packed, packed_gradients = loss_and_gradients(model, trees, Clip(entropy=0.25))
    assert packed == pytest.approx(loss, rel=1e-5)
    assert worst_difference(gradients, packed_gradients) < 2e-5


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("mistral", {"sliding_window": 32}, "sliding windows of 32 tokens, and paths may have 40"),
        ("gemma3_text", {"sliding_window": 32}, "sliding windows of 32"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}, "sliding windows of 8"),
        ("gemma2", {}, "caps its attention scores at 50"),
        ("gpt_oss", {"sliding_window": 64}, "attention sinks"),
        ("bloom", {}, "bias by distance"),
        ("falcon", {"alibi": True}, "ALiBi"),
        ("mamba", {}, "state-space"),
        ("jamba", {}, "state from token to token"),
        ("qwen3_next", {}, "state from token to token"),
        ("llama", {"attention_dropout": 0.1}, "attention_dropout 0.1"),
        ("llama4_text", {}, "chunked_attention"),
        ("gpt2", {}, "attn_pdrop 0.1"),
        ("deepseek_v32", {"index_topk": 16}, "16 best keys"),
        ("deepseek_v2", {}, "latent attention"),
        ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 32}, "(dynamic) that change beyond 32"),
    ],
)
def test_a_model_whose_attention_is_another_is_refused_by_name(kind, options, words):
    reason = refusal(AutoConfig.for_model(kind, **options).to_dict(), 40)
    assert reason is not None and words in reason


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mistral", {"sliding_window": 40}),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 8}),
        ("qwen3", {}),
        ("gemma3_text", {"sliding_window": 512}),
        ("falcon", {"alibi": False}),
        ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 40}),
        ("gpt2", {"attn_pdrop": 0.0}),
    ],
)
def test_a_window_that_no_path_exceeds_is_no_reason(kind, options):
    assert refusal(AutoConfig.for_model(kind, **options).to_dict(), 40) is None


def test_a_config_json_that_names_no_layers_says_where_windows_begin():
    windows = {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "num_hidden_layers": 3}
    for first, refused in ((2, True), (3, False)):
        raw = windows | {"max_window_layers": first}
        assert (refusal(raw, 40) is not None) is refused
        assert (refusal(AutoConfig.for_model(**raw).to_dict(), 40) is not None) is refused
    assert refusal(windows, 40) is not None


def test_a_window_is_looked_at_again_when_packs_are_scored():
    model = model_of("mistral", sliding_window=8)
    use_tree_attention(model)
    _, trees = two_sides()
    with pytest.raises(ConfigError, match="sliding window of 8 tokens"):
        for pack in trees:
            score(model, pack, "cpu")


def test_models_that_cannot_take_trees_say_why():
    assert "was loaded with attention eager" in why_it_fails(model_of("llama", "eager"), "cpu", 32)
    sinks = model_of("gpt_oss", "eager", num_local_experts=4, sliding_window=64)
    assert why_it_fails(sinks, "cpu", 32) is not None


@pytest.mark.parametrize("attends", [1.0, 1e-3])
def test_an_attention_that_ignores_the_tree_is_found_out(monkeypatch, attends):
    """Also where attention adds so little that positions, and the states read, matter a hundred times more."""

    def blind(module, query, key, value, mask, *, tree=None, **kwargs):
        return sdpa_attention_forward(module, query, key, value, None, is_causal=True, **kwargs)

    assert why_it_fails(model_of("qwen2", attends=attends), "cpu", 32) is None
    monkeypatch.setitem(attention.AttentionInterface._global_mapping, TREE_ATTENTION, blind)
    model = model_of("qwen2", attends=attends)
    reason = why_it_fails(model, "cpu", 32)
    assert reason is not None and "ignores which tokens belong to which" in reason
    assert model.config._attn_implementation == "sdpa" and not takes_trees(model)


def test_an_attention_that_shows_one_branch_to_all_others_is_found_out(monkeypatch):
    def nosy(module, query, key, value, mask, *, tree=None, **kwargs):
        if tree is None or len(tree.nodes) == 1:
            return attention.attend(module, query, key, value, mask, tree=tree, **kwargs)
        shown = np.zeros(len(tree), bool)
        shown[tree.nodes.start[1] : tree.nodes.stop[1]] = True
        sees = torch.from_numpy(tree.mask() | (np.tri(len(tree), dtype=bool) & shown))
        return sdpa_attention_forward(module, query, key, value, sees[None, None], **kwargs)

    monkeypatch.setitem(attention.AttentionInterface._global_mapping, TREE_ATTENTION, nosy)
    assert "ignores which tokens belong to which" in why_it_fails(model_of("qwen2"), "cpu", 32)


def test_a_model_that_loses_the_keyword_is_found_out(monkeypatch):
    def forgetful(module, *states, tree=None, **kwargs):
        return attention.attend(module, *states, **kwargs)

    monkeypatch.setitem(attention.AttentionInterface._global_mapping, TREE_ATTENTION, forgetful)
    reason = why_it_fails(model_of("qwen2"), "cpu", 32)
    assert reason is not None and "doesn't hand the keyword `tree` to its attention" in reason


@pytest.mark.parametrize("words", [2, 32])
@pytest.mark.parametrize("mode", [True, False])
def test_the_self_test_leaves_the_model_and_the_random_numbers_as_they_were(mode, words):
    model = model_of("qwen2").train(mode)
    state, before = torch.get_rng_state(), [p.clone() for p in model.parameters()]
    assert why_it_fails(model, "cpu", words) is None
    assert model.training is mode and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one, two) and two.grad is None for one, two in zip(before, model.parameters(), strict=True))


def test_rows_score_bit_for_bit_as_before_and_cost_no_mask(monkeypatch):
    rows, _ = two_sides()
    plain, model = model_of("qwen2"), model_of("qwen2")
    use_tree_attention(model)
    use_tree_attention(model)
    seen = []

    def spy(module, query, key, value, mask, **kwargs):
        seen.append(mask)
        return attention.attend(module, query, key, value, mask, **kwargs)

    monkeypatch.setitem(attention.AttentionInterface._global_mapping, TREE_ATTENTION, spy)
    for pack in rows:
        for want, got in zip(score(plain, pack, "cpu")[1:], score(model, pack, "cpu")[1:], strict=True):
            assert torch.equal(want, got)
    assert seen and all(mask is None for mask in seen)


@pytest.mark.parametrize("reentrant", [False, True])
def test_layers_that_are_computed_again_in_the_backward_pass_see_the_same_tree(reentrant):
    model = model_of("qwen2").train()
    use_tree_attention(model)
    _, trees = two_sides()
    loss, gradients = loss_and_gradients(model, trees, Clip())
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    again, recomputed = loss_and_gradients(model, trees, Clip())
    assert again == loss and worst_difference(gradients, recomputed) < 1e-6


def test_an_adapter_trains_on_trees_as_on_rows():
    from peft import LoraConfig, get_peft_model

    model = model_of("qwen2")
    use_tree_attention(model)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    (rows, trees), objective = two_sides(), Clip(kl=0.25)
    loss, gradients = loss_and_gradients(adapted, rows, objective)
    packed, packed_gradients = loss_and_gradients(adapted, trees, objective)
    assert packed == pytest.approx(loss, rel=1e-5) and worst_difference(gradients, packed_gradients) < 2e-5


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_under_autocast_trees_score_as_rows_do_to_its_precision(kind):
    model = model_of(kind)
    use_tree_attention(model)
    rows, trees = two_sides()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, gradients = loss_and_gradients(model, rows, Clip())
        packed, packed_gradients = loss_and_gradients(model, trees, Clip())
    assert packed == pytest.approx(loss, rel=2e-2, abs=2e-2)
    assert worst_difference(gradients, packed_gradients) < 0.1


def test_the_saved_configuration_says_nothing_of_it(tmp_path):
    model = model_of("qwen2")
    use_tree_attention(model)
    model.save_pretrained(tmp_path)
    assert TREE_ATTENTION not in (tmp_path / "config.json").read_text()


def test_a_layout_is_that_of_the_pack():
    _, trees = two_sides()
    layout = layout_of(trees[0])
    want = [np.flatnonzero(layout.mask()[token]).tolist() for token in range(len(layout))]
    for token, seen in enumerate(want):
        path = [token]
        while trees[0].pred[path[-1]] >= 0:
            path.append(int(trees[0].pred[path[-1]]))
        assert path[::-1] == seen
