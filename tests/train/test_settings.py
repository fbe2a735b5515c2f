"""The settings of a run: every configuration that ships loads, passes the checks and reads back equal."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import ConfigError
from laconic.train.checks import check_settings
from laconic.train.model_config import model_config
from laconic.train.settings import OptimSettings, RolloutSettings, Settings, as_dict, load_settings, to_yaml
from laconic.train.settings_io import build, field_docs, read_yaml
from laconic.train.truncation import TRUNCATIONS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TRAINING = [
    CONFIGS / "quickstart.yaml",
    *sorted(CONFIGS.glob("methods/*.yaml")),
    *sorted(CONFIGS.glob("recipes/*.yaml")),
]
TINY = str(CONFIGS / "methods" / "dot.yaml")


@pytest.mark.parametrize("config", TRAINING, ids=lambda path: path.stem)
def test_every_configuration_that_ships_loads_passes_the_checks_and_reads_back_equal(config, tmp_path):
    loaded = load_settings(config)
    assert loaded.name == config.stem
    check_settings(loaded, model_config(loaded.model))
    resolved = tmp_path / "config.yaml"
    resolved.write_text(to_yaml(loaded))
    assert load_settings(resolved) == loaded


@pytest.mark.parametrize("config", TRAINING, ids=lambda path: path.stem)
def test_a_configuration_that_ships_holds_only_what_differs_from_the_defaults(config):
    tree = read_yaml(config)
    defaults = as_dict(Settings(model="?"))
    same = [
        f"{section}.{key}"
        for section in ("rollout", "optim", "save", "task")
        for key, value in tree.get(section, {}).items()
        if value == defaults[section][key] and config.parent.name == "methods"
    ]
    assert not same


def test_the_recipe_holds_the_published_settings():
    recipe = load_settings(CONFIGS / "recipes" / "r1-distill-qwen-1.5b-dot-8k.yaml")
    rollout, optim, dot = recipe.rollout, recipe.optim, recipe.truncation
    assert (rollout.group_size, rollout.prompts_per_step, rollout.max_prompt, rollout.max_completion) == (
        32, 128, 4096, 8192,
    )  # fmt: skip
    assert (dot.alpha, dot.margin, dot.success_threshold) == (3.0, 32, 1.0)
    assert (optim.lr, optim.updates_per_batch, rollout.temperature) == (1e-6, 4, 1.0)
    assert (recipe.objective.ratio, recipe.objective.coef, recipe.objective.normalizer) == (0.002, 1.0, "row_mean")
    assert recipe.objective.kl == 0
    sampler = recipe.sampler
    assert (sampler.window, sampler.initial_factor, sampler.min_factor, sampler.max_factor) == (20, 1.5, 1.2, 5.0)


def test_the_recipe_for_trees_holds_the_published_settings():
    recipe = load_settings(CONFIGS / "recipes" / "r1-distill-qwen-1.5b-treepo-8k.yaml")
    rollout, tree, loss = recipe.rollout, recipe.rollout.driver, recipe.objective
    assert (tree.segment, tree.depth, tree.width, tree.group_size) == (512, 14, 2, 16)
    assert (tree.fallback, tree.fallback_from, tree.answer) == ("random", "soft_boxed_and_eos", "boxed_and_eos_first")
    assert (rollout.prompts_per_step, rollout.max_completion, rollout.temperature) == (512, 14 * 512, 1.0)
    assert (recipe.optim.lr, loss.epsilon_low, loss.epsilon_high) == (1e-6, 0.2, 0.28)
    assert (loss.normalizer, loss.kl, recipe.sampler.filter) == ("token_mean", 0, "signal")


def test_a_packaged_configuration_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_settings("configs/quickstart.yaml").model == "tiny-thinker"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.learning_rate=1", ["'optim.learning_rate'", "known here: lr"]),
        ("rollout.groupsize=4", ["did you mean 'rollout.group_size'"]),
        ("truncation.alhpa=2", ["did you mean 'truncation.alpha'"]),
        ("rollout.group_size=many", ["rollout.group_size must be a whole number", "'many'"]),
        ("task.names=[chian]", ["'chian'", "chain, search"]),
        ("task.columns={question: q}", ["'question'", "fields: prompt"]),
        ("task.template=hello", ["{prompt}"]),
        ("credit.name=ppo", ["credit", "'ppo'", "dr_grpo, grpo", "rloo"]),
    ],
)
def test_a_wrong_override_is_refused_with_the_nearest_known_key(override, words):
    with pytest.raises(ConfigError) as caught:
        load_settings(TINY, [override])
    assert all(word in str(caught.value) for word in words), caught.value


def test_an_override_wins_over_the_file():
    changed = load_settings(TINY, ["optim.lr=3e-4", "truncation.name=none", "name=other"])
    assert (changed.optim.lr, changed.name) == (3e-4, "other")
    assert changed.truncation == TRUNCATIONS["none"]()


def test_every_field_says_what_it_means():
    for cls in (Settings, RolloutSettings, OptimSettings, type(Settings("m").task), type(Settings("m").save)):
        undocumented = set(cls.__dataclass_fields__) - set(field_docs(cls))
        assert not undocumented, f"{cls.__name__}: {undocumented}"


counts = st.integers(1, 10**6)
rates = st.floats(1e-9, 1e3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rollout=st.builds(RolloutSettings, prompts_per_step=counts, group_size=counts, temperature=rates),
    optim=st.builds(OptimSettings, lr=rates, epochs=counts, gradient_checkpointing=st.booleans()),
    truncation=st.sampled_from(sorted(TRUNCATIONS)),
    trl=st.dictionaries(st.sampled_from(["adam_beta1", "run_name"]), rates),
)
def test_resolved_settings_read_back_equal(rollout, optim, truncation, trl):
    made = Settings(model="m", rollout=rollout, optim=optim, truncation=TRUNCATIONS[truncation](), trl=trl)
    assert build(Settings, as_dict(made)) == made
