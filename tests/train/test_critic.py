"""The critic: its head in the model, advantages of packs, and a trainer that learns from them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny_trainer import CONFIGS

from laconic.errors import ConfigError
from laconic.kernels.logprob_head import add_logprob_head
from laconic.rollout.engines.weights import complete_state
from laconic.train.cautions import find_warnings
from laconic.train.checks import check_settings
from laconic.train.critic import ALONE, ValueHead, add_value_head, with_advantages, with_credit, with_values
from laconic.train.forward import score, score_all
from laconic.train.objectives import Ppo, Vapo
from laconic.train.objectives.gae import gae, length_adaptive_lambda
from laconic.train.rows import flatten, to_packs
from laconic.train.saving import export
from laconic.train.settings import load_settings

LENGTHS = [[5, 9, 1, 12], [3, 7, 2, 8]]
REWARD = [1.0, 0.0, 1.0, 0.5, 0.0, 0.0, 1.0, -0.25]


def packs_of(groups, micro_batch_tokens=40, nll_N=None):
    rows = flatten(groups, REWARD, normalizer="row_mean", max_completion=24, keep_all=True, nll_N=nll_N)
    return to_packs(rows, micro_batch_tokens)


def critic_model(tiny_qwen, ppo):
    model = tiny_qwen().float()
    add_value_head(model, ppo)
    add_logprob_head(model)
    return model


def fake_trainer(model, ppo, generation=3):
    return SimpleNamespace(
        model=model, settings=SimpleNamespace(objective=ppo), 
        accelerator=SimpleNamespace(device="cpu", unwrap_model=lambda model: model),
        ranks=SimpleNamespace(gather=lambda value: [value]), generation=generation, _generation_metrics={},
    )  # fmt: skip


def test_the_head_begins_at_zero_and_changes_no_log_prob(flat_groups, tiny_qwen):
    pack = packs_of(flat_groups(1, LENGTHS))[0]
    model = critic_model(tiny_qwen, Ppo(value_width=8))
    index_M, scored = score_all(model, pack, "cpu")
    assert scored.value.shape == index_M.shape and not scored.value.any()
    plain = tiny_qwen().float()
    add_logprob_head(plain)
    torch.testing.assert_close(scored.log_probs, score(plain, pack, "cpu")[1], rtol=0, atol=0)
    assert score_all(plain, pack, "cpu")[1].value is None


@pytest.mark.parametrize("trains", ["head", "all"])
def test_its_gradient_reaches_the_policy_only_where_it_may(trains):
    head, hidden_MH = ValueHead(4, speed=10.0, trains=trains), torch.ones(3, 4, requires_grad=True)
    torch.nn.init.ones_(head.layers.weight)
    values_M = head(hidden_MH)
    assert values_M.tolist() == pytest.approx([40.0] * 3)
    values_M.sum().backward()
    assert head.layers.weight.grad[0].tolist() == pytest.approx([30.0 * (ALONE if trains == "head" else 1)] * 4)
    assert (hidden_MH.grad is None) == (trains == "head")


def test_a_head_that_was_cast_to_16_bits_answers_in_float32():
    """DeepSpeed casts all weights of the module, while hidden states may come in either type."""
    for width in (0, 3):
        head = ValueHead(4, width=width).bfloat16()
        for seen in (torch.float32, torch.bfloat16):
            value_M = head(torch.ones(2, 4, dtype=seen))
            assert value_M.dtype == torch.float32 and value_M.shape == (2,)
            value_M.sum().backward()


def test_values_are_of_the_state_before_the_token(flat_groups, tiny_qwen):
    """The value of a token does not depend on that token, nor on those after it."""
    model = critic_model(tiny_qwen, Ppo())
    torch.nn.init.normal_(model.value_head.layers.weight, generator=torch.Generator().manual_seed(0))
    pack = packs_of(flat_groups(1, LENGTHS))[0]
    start, stop = pack.trees[0]
    before = with_values(model, pack, "cpu").value
    ids = pack.ids.copy()
    token = stop - 3
    ids[token] = (ids[token] + 1) % 20
    after = with_values(model, replace(pack, ids=ids), "cpu").value
    np.testing.assert_allclose(after[start : token + 1], before[start : token + 1], atol=1e-6)
    assert abs(after[token + 1] - before[token + 1]) > 1e-4
    assert (np.isfinite(before) == (pack.w_kl != 0)).all()


@pytest.mark.parametrize(
    "ppo",
    [Ppo(whiten=False), Ppo(whiten=False, lambda_actor=0.9, lambda_critic=0.7, gamma=0.97), Vapo(whiten=False)],
    ids=["plain", "lambdas", "by_length"],
)
def test_advantages_and_returns_of_packs_are_those_of_each_row(ppo, flat_groups, tiny_qwen):
    groups = flat_groups(2, LENGTHS)
    model = critic_model(tiny_qwen, ppo)
    torch.nn.init.normal_(model.value_head.layers.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    ppo = replace(ppo, value_warmup=0)
    packs = packs_of(groups)
    (got,) = with_advantages(fake_trainer(model, ppo), [packs])
    rewards = sorted(REWARD)
    seen = []
    for before, pack in zip(packs, got, strict=True):
        for start, stop in pack.trees:
            at = start + np.flatnonzero(before.w_kl[start:stop])
            reward_T = np.zeros(len(at))
            reward_T[-1] = (before.w_pos + before.w_neg)[at[-1]] / before.w_kl[at[-1]]
            seen.append(round(float(reward_T[-1]), 6))
            actor = length_adaptive_lambda(len(at), 0.05) if ppo.length_adaptive else ppo.lambda_actor
            want_T, critic_T = (
                gae([reward_T], [pack.value[at]], gamma=ppo.gamma, lambda_B=one)[0]
                for one in (actor, ppo.lambda_critic)
            )
            np.testing.assert_allclose((pack.w_pos + pack.w_neg)[at] / pack.w_kl[at], want_T, atol=1e-5)
            np.testing.assert_allclose(pack.returns[at], critic_T + pack.value[at], atol=1e-5)
            assert (pack.w_pos >= 0).all() and (pack.w_neg <= 0).all()
    assert sorted(seen) == rewards


def test_values_begin_at_the_mean_reward_of_the_first_generation(flat_groups, tiny_qwen):
    updates = [packs_of(flat_groups(3, LENGTHS)), packs_of(flat_groups(4, LENGTHS))]
    model = critic_model(tiny_qwen, Ppo())
    trainer = fake_trainer(model, Ppo(), generation=0)
    filled = with_advantages(trainer, updates)
    packs = [pack for packs in updates for pack in packs]
    reward_M = np.concatenate([((p.w_pos + p.w_neg)[p.w_kl != 0] / p.w_kl[p.w_kl != 0]) for p in packs])
    level = reward_M.astype(np.float64).mean()
    assert 0 < level < 1 and float(model.value_head.level) == pytest.approx(level, rel=1e-6)
    value_M = np.concatenate([pack.value[pack.w_kl != 0] for pack in filled[0]])
    np.testing.assert_allclose(value_M, level, rtol=1e-6)
    assert trainer._generation_metrics["value/error"] == pytest.approx(0, abs=1e-6)
    with_advantages(fake_trainer(model, Ppo(), generation=1), [packs_of(flat_groups(5, LENGTHS))])
    assert float(model.value_head.level) == pytest.approx(level, rel=1e-6), "later generations leave it"


def test_whitening_is_over_all_trained_tokens_of_the_generation(flat_groups, tiny_qwen):
    updates = [packs_of(flat_groups(3, LENGTHS)), packs_of(flat_groups(4, LENGTHS))]
    trainer = fake_trainer(critic_model(tiny_qwen, Ppo()), Ppo())
    got = with_advantages(trainer, updates)
    advantage_M = np.concatenate(
        [((p.w_pos + p.w_neg)[p.w_kl != 0] / p.w_kl[p.w_kl != 0]) for packs in got for p in packs]
    ).astype(np.float64)
    assert advantage_M.mean() == pytest.approx(0, abs=1e-5) and advantage_M.std() == pytest.approx(1, abs=1e-5)
    metrics = trainer._generation_metrics
    # Values are 0, so returns are what is left to explain, and their spread is that of the advantages.
    assert metrics["value/explained_variance"] == pytest.approx(0, abs=1e-9)
    assert metrics["value/error"] == metrics["value/return"]


def test_two_ranks_whiten_as_one(flat_groups, tiny_qwen):
    halves = [packs_of(flat_groups(3, LENGTHS)), packs_of(flat_groups(4, LENGTHS))]
    model = critic_model(tiny_qwen, Ppo())
    whole = with_advantages(fake_trainer(model, Ppo()), [halves[0] + halves[1]])[0]
    # Each rank hears what the other would say; on a lone rank that is what it says itself.
    own = []
    for half in halves:
        trainer = fake_trainer(model, Ppo())
        trainer.ranks.gather = lambda value: [own.append(value), value][1:]
        with_advantages(trainer, [half])
    ranks = []
    for half in halves:
        trainer = fake_trainer(model, Ppo())
        trainer.ranks.gather = lambda _: own[:2]
        ranks += with_advantages(trainer, [half])[0]
    for one, other in zip(whole, ranks, strict=True):
        np.testing.assert_allclose(one.w_pos, other.w_pos, rtol=1e-6)
        np.testing.assert_allclose(one.w_neg, other.w_neg, rtol=1e-6)


def test_during_the_warm_up_only_values_are_learned(flat_groups, tiny_qwen):
    ppo = Vapo(value_warmup=2)
    updates = [packs_of(flat_groups(3, LENGTHS), nll_N=[0.1] * 8)]
    model = critic_model(tiny_qwen, ppo)
    for generation, still in ((1, True), (2, False)):
        (packs,) = with_advantages(fake_trainer(model, ppo, generation), updates)
        for pack in packs:
            assert (not (pack.w_pos.any() or pack.w_neg.any() or pack.w_nll.any() or pack.w_ent.any())) == still
            assert pack.w_kl.any() and np.isfinite(pack.returns[pack.w_kl != 0]).all()


def test_nothing_to_train_gives_no_advantages(tiny_qwen):
    trainer = fake_trainer(critic_model(tiny_qwen, Ppo()), Ppo())
    assert with_advantages(trainer, [[], []]) == [[], []]
    assert math.isnan(trainer._generation_metrics["value/explained_variance"])


def test_weights_of_one_token_are_split_by_sign(flat_groups):
    pack = packs_of(flat_groups(1, LENGTHS))[0]
    got = with_credit(pack, np.where(np.arange(len(pack)) % 2, 2.0, -1.0))
    np.testing.assert_allclose(got.w_pos, np.where(np.arange(len(pack)) % 2, 2 * pack.w_kl, 0))
    np.testing.assert_allclose(got.w_neg, np.where(np.arange(len(pack)) % 2, 0, -pack.w_kl))


def test_engines_get_no_copy_of_it(tiny_qwen):
    model = tiny_qwen()
    names = complete_state(model).keys()
    add_value_head(model, Ppo())
    assert complete_state(model).keys() == names and "value_head.layers.weight" in model.state_dict()


def test_a_short_run_learns_values_saves_them_and_leaves_them_out_of_the_model(make, tmp_path):
    trainer = make("ppo", "steps=2", "optim.updates_per_batch=2", "save.every=1")
    trainer.train()
    head = trainer.accelerator.unwrap_model(trainer.model).value_head
    assert head.layers.weight.abs().max() > 0
    lines = [json.loads(line) for line in (trainer.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert {"value/loss", "value/explained_variance", "seconds/value"} <= lines[-1].keys()
    checkpoint = max((trainer.run_dir / "checkpoints").glob("step-*"))
    with safe_open(checkpoint / "model.safetensors", "pt") as saved:
        assert torch.equal(saved.get_tensor("value_head.layers.weight"), head.layers.weight.detach().cpu())
    with safe_open(export(trainer, tmp_path / "model") / "model.safetensors", "pt") as exported:
        assert not [name for name in exported.keys() if name.startswith("value_head")]  # noqa: SIM118


@pytest.mark.parametrize(
    ("config", "overrides", "words"),
    [
        ("ppo", ["adapter.name=lora"], "checkpoints of adapter lora hold the adapter only"),
        ("ppo", ["reward.shaping.name=kimi_length", "reward.level=advantage"], "reward.level is advantage"),
        ("ppo", ["reward.selection.name=gfpo"], "reward.selection gfpo leaves answers out"),
        (
            "vapo",
            ["steps=10", "objective.value_warmup=10"],
            "objective.value_warmup is 10 but the run has only 10 steps",
        ),
    ],
)
def test_what_a_critic_cannot_work_with_is_refused(config, overrides, words):
    with pytest.raises(ConfigError, match=words):
        check_settings(load_settings(CONFIGS / f"{config}.yaml", overrides), None)


def test_credit_that_does_nothing_is_said():
    warnings = find_warnings(load_settings(CONFIGS / "ppo.yaml"))
    assert any("credit grpo only fills the log" in warning for warning in warnings)
