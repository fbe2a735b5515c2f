"""What a dry run says is what the settings imply."""

from __future__ import annotations

from dataclasses import replace

import pytest

from laconic.eval.model_spec import ModelSpec
from laconic.train.derived import derive, estimate_memory, summary
from laconic.train.model_config import KNOWN_CONFIGS
from laconic.train.settings import OptimSettings, RolloutSettings, Settings, load_settings
from laconic.train.truncation import Dot

CONFIG = KNOWN_CONFIGS["Qwen/Qwen2.5-0.5B"]
SPEC = ModelSpec.from_config(CONFIG)
SETTINGS = Settings(
    model="Qwen/Qwen2.5-0.5B",
    steps=10,
    rollout=RolloutSettings(prompts_per_step=8, group_size=4, max_prompt=100, max_completion=900, max_live=16),
    optim=OptimSettings(updates_per_batch=2, epochs=3, micro_batch_tokens=4000),
)


def test_the_counts_are_said_in_words(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    text = "\n".join(derive(SETTINGS, CONFIG))
    assert "8 prompts x 4 samples = 32 rollouts per step, on 2 ranks" in text
    assert "6 updates per step (2 parts x 3 passes): 4 prompts = 16 rows each, in at most 2 micro-batches" in text
    assert "100 + 900 = 1,000 tokens of the model's 32,768 positions" in text
    assert "10 steps: 60 updates, at most 320 rollouts and 288,000 sampled tokens" in text
    assert "model of 494,032,768 parameters" in text


@pytest.mark.parametrize(
    ("config", "words"),
    [
        # 4 answers, each with 1 split into 3 more: 16 leaves, and one branch of a split keeps nothing
        ("eptree", ["8 prompts x at most 16 rollouts (rollout.group_size 4) = 128", "= at most 128 rows each",
                    "at most 12,800 rollouts and 8,192,000 sampled tokens"]),
        # 4 thoughts of 200 tokens with 4 x 4 summaries of 8
        ("anytime", ["x at most 64 rollouts", "= at most 512 rows each", "51,200 rollouts and 1,049,600 sampled"]),
        # 16 traces of 6 chunks: 128 + 5 * (128 - 48) tokens
        ("delethink", ["8 prompts x 16 samples = 128", "= at most 768 rows each", "12,800 rollouts and 6,758,400"]),
    ],
)  # fmt: skip
def test_drivers_say_how_much_their_groups_come_to(config, words):
    settings = load_settings(f"configs/methods/{config}.yaml")
    text = "\n".join(derive(settings, None))
    assert all(word in text for word in words), text


def test_the_cache_holds_as_many_sequences_as_a_driver_decodes_at_once():
    anytime = load_settings("configs/methods/anytime.yaml", ["rollout.prompts_per_step=1"])
    flat = load_settings("configs/methods/grpo.yaml", ["rollout.prompts_per_step=1", "rollout.max_completion=256"])
    assert anytime.rollout.longest_context == flat.rollout.longest_context
    assert estimate_memory(anytime, SPEC, 4).cache == 64 / 16 * estimate_memory(flat, SPEC, 4).cache


@pytest.mark.parametrize(("group_size", "alpha", "most"), [(16, 3, 1), (32, 3, 3), (11, 3, 1), (10, 3, 0)])
def test_the_most_answers_that_dot_can_cut_are_said(group_size, alpha, most):
    settings = Settings("m", rollout=RolloutSettings(group_size=group_size), truncation=Dot(alpha=alpha))
    assert f"at most {most} equally long outliers of {group_size} answers" in "\n".join(derive(settings, None))


def test_memory_is_the_documented_sum():
    memory = estimate_memory(SETTINGS, SPEC, 4)
    assert (memory.weights, memory.gradients, memory.adam) == tuple(494_032_768 * n for n in (4, 4, 8))
    assert memory.reference == 0
    assert memory.cache == 16 * 1000 * 2 * 24 * 2 * 64 * 4
    layer = 6 * 896 + 2 * 14 * 64 + 2 * 2 * 64 + 4 * 4864
    assert memory.activations == 4000 * 24 * layer * 4
    assert memory.head == 8 * 1024 * 151_936
    kept = memory.weights + memory.gradients + memory.adam
    assert memory.total == kept + max(memory.cache, memory.activations + memory.head)


def test_the_cache_is_bounded_by_its_setting():
    bounded = replace(SETTINGS, rollout=replace(SETTINGS.rollout, kv_gb=0.01))
    assert estimate_memory(bounded, SPEC, 4).cache == int(0.01 * 2**30) < estimate_memory(SETTINGS, SPEC, 4).cache


def test_checkpointing_saves_memory_and_half_the_width_halves_it():
    lean = Settings(model="m", optim=OptimSettings(gradient_checkpointing=True))
    full = Settings(model="m")
    assert estimate_memory(lean, SPEC, 4).activations < estimate_memory(full, SPEC, 4).activations / 5
    assert estimate_memory(full, SPEC, 2).activations * 2 == estimate_memory(full, SPEC, 4).activations


def test_an_unknown_model_is_called_unknown():
    assert "unknown, config not on disk" in derive(SETTINGS, None)[-1]
    assert summary(SETTINGS, None)["peak_bytes"] is None


def test_a_model_that_cannot_be_priced_can_still_be_trained():
    config = {"model_type": "deepseek_v3", "kv_lora_rank": 512}
    assert "unknown, model type 'deepseek_v3'" in derive(SETTINGS, config)[-1]
    numbers = summary(SETTINGS, config)
    assert numbers["parameters"] is numbers["peak_bytes"] is numbers["trained"] is None


def test_numbers_for_scripts_equal_those_in_words():
    numbers = summary(SETTINGS, CONFIG)
    assert (numbers["rollouts_per_step"], numbers["updates_per_step"], numbers["rollouts_at_most"]) == (32, 6, 320)
    assert numbers["parameters"] == 494_032_768
