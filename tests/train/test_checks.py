"""What cannot work is refused before anything heavy starts, with the arithmetic and the remedy."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from trl import GRPOConfig

from laconic.errors import ConfigError
from laconic.train.cautions import find_warnings
from laconic.train.checks import check_settings
from laconic.train.settings import load_settings
from laconic.train.trl_keys import reason_refused

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "methods"
TINY = {"max_position_embeddings": 1024}

GROUP_OF_TEN = ["rollout.group_size=10", "truncation.alpha=3"]


def refusal(config: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check_settings(load_settings(CONFIGS / f"{config}.yaml", overrides), TINY)
    return str(caught.value)


@pytest.mark.parametrize("config", ["grpo", "dr_grpo", "rloo", "dot", "kimi_length"])
def test_a_group_of_one_is_refused_because_nothing_would_be_learned(config):
    message = refusal(config, "rollout.group_size=1")
    assert "rollout.group_size is 1" in message and "raise rollout.group_size" in message


def test_dot_is_refused_where_no_answer_could_be_an_outlier():
    message = refusal("dot", *GROUP_OF_TEN)
    assert "10" in message and "2.8" in message and "group_size" in message and "alpha" in message


def test_dot_passes_from_the_group_size_on_that_its_alpha_needs():
    check_settings(load_settings(CONFIGS / "dot.yaml", ["rollout.group_size=11", "truncation.alpha=3"]), TINY)


def test_dot_is_refused_together_with_masking_of_truncated_completions():
    message = refusal("dot", "trl.mask_truncated_completions=true")
    assert "mask_truncated_completions" in message and "DOT" in message and "switch it off" in message


def test_a_margin_that_no_answer_can_exceed_is_refused():
    assert "none could ever be cut" in refusal("dot", "truncation.margin=640")


def test_kl_cov_is_refused_where_its_penalty_is_always_zero():
    message = refusal("kl_cov", "optim.updates_per_batch=1")
    assert "kl_cov has no effect" in message and "optim.updates_per_batch" in message


def test_kl_cov_passes_with_two_passes_over_the_batch():
    check_settings(load_settings(CONFIGS / "kl_cov.yaml", ["optim.updates_per_batch=1", "optim.epochs=2"]), TINY)


def test_pds_is_refused_without_a_filter():
    assert "sampler.filter=signal" in refusal("pds", "sampler.filter=none")


@pytest.mark.parametrize(("updates", "words"), [(3, "8 / 3 = 2.67"), (16, "only 8 prompts")])
def test_updates_that_do_not_divide_the_prompts_are_refused(updates, words):
    assert words in refusal("grpo", f"optim.updates_per_batch={updates}")


def test_rows_beyond_the_positions_of_the_model_are_refused_with_the_sum():
    message = refusal("grpo", "rollout.max_completion=1000")
    assert "128" in message and "= 1128" in message and "1024 positions" in message and "to 896" in message


@pytest.mark.parametrize(
    "override",
    ["steps=0", "rollout.prompts_per_step=0", "rollout.max_live=0", "optim.lr=0", "rollout.temperature=0",
     "rollout.server_timeout=0", "optim.epochs=0", "save.keep=0", "save.every=0", "optim.max_grad_norm=-1", "name=a/b",
     "rollout.engine=vlm",
     "optim.weight_decay=-1", "rollout.driver=tree"],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_its_key(override):
    assert override.partition("=")[0] in refusal("grpo", override)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("learning_rate", "optim.lr"),
        ("num_generations", "rollout.group_size"),
        ("beta", "objective.kl"),
        ("use_vllm", "no effect"),
        ("vllm_mode", "no effect"),
        ("top_entropy_quantile", "no effect"),
        ("top_p", "nothing corrects the ratio"),
        ("top_k", "nothing corrects the ratio"),
        ("eval_steps", "no effect"),
        ("ddp_timeout", "no effect"),
        ("adam_betta1", "did you mean trl.adam_beta"),
    ],
)
def test_a_trl_key_that_would_do_nothing_is_refused_with_the_reason(key, words):
    message = refusal("grpo", f"trl.{key}=1")
    assert f"trl.{key}" in message and words in message


@pytest.mark.parametrize("key", ["top_p", "top_k", "min_p"])
def test_sampling_from_a_part_of_the_vocabulary_is_refused_with_the_reason(key):
    message = refusal("grpo", f"rollout.{key}=0.9")
    assert f"rollout.{key}" in message and "trained as if it were drawn from all of it" in message
    assert "lower rollout.temperature" in message


def test_a_trl_key_that_still_works_passes():
    check_settings(load_settings(CONFIGS / "grpo.yaml", ["trl.adam_beta2=0.95", "trl.run_name=mine"]), TINY)


def test_every_key_of_trl_itself_is_either_refused_or_known_to_keep_its_effect():
    parents = [parent for parent in GRPOConfig.__mro__[1:] if is_dataclass(parent)]
    base = {field.name for parent in parents for field in fields(parent)}
    own = {field.name for field in fields(GRPOConfig)} - base
    kept = {name for name in own if reason_refused(name) is None}
    assert kept == {"disable_dropout", "sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"}


def test_group_std_with_a_length_reward_is_warned_about():
    settings = load_settings(CONFIGS / "kimi_length.yaml")
    assert not find_warnings(settings)
    settings = load_settings(CONFIGS / "kimi_length.yaml", ["credit.name=grpo"])
    assert "credit.name=dr_grpo" in find_warnings(settings)[0]


def test_dot_with_a_length_reward_and_an_idle_warm_up_are_warned_about():
    overrides = ["reward.shaping.name=kimi_length", "credit.name=dr_grpo", "optim.warmup_steps=5"]
    twice, idle = find_warnings(load_settings(CONFIGS / "dot.yaml", overrides))
    assert "length enters twice" in twice and "constant_with_warmup" in idle


def test_a_weight_that_credit_would_cancel_is_warned_about_unless_something_keeps_it():
    kept = [["reward.level=advantage"], ["reward.std_floor=0.1"], ["credit.name=rloo"]]
    for overrides in ([], *kept):
        found = find_warnings(load_settings(CONFIGS / "kimi_length.yaml", ["credit.name=grpo", *overrides]))
        assert any("cancels" in line for line in found) == (not overrides), overrides


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["reward.weights=[0.5]"], "reward.weights is set, but reward.shaping none"),
        (["reward.level=advantage"], "reward.level is set, but reward.shaping none"),
        (["reward.dead_zone=8"], "reward.dead_zone is set, but reward.shaping none"),
        (["reward.shaping.name=kimi_length", "reward.dead_zone=640"], "all right answers would count as equally long"),
        (
            ["credit.name=dr_grpo", "reward.std_floor=0.1"],
            "reward.std_floor is 0.1, but credit dr_grpo does not divide",
        ),
        (["reward.selection.name=gfpo", "reward.selection.keep=16"], "it would keep all"),
        (["reward.shaping={name: dler, cap: 640}"], "640"),
    ],
)
def test_a_reward_setting_without_effect_is_refused(overrides, words):
    assert words in refusal("grpo", *overrides)


def test_what_a_shaping_breaks_is_warned_about_with_its_reason():
    published = find_warnings(load_settings(CONFIGS / "kimi_length.yaml", ["reward.shaping.gate=sign_split"]))
    assert len(published) == 1 and "a group without a right answer learns from lengths alone, since" in published[0]


def test_weights_that_let_length_outvote_the_outcome_are_warned_about():
    overrides = ["reward.shaping={name: kimi_length, weight: 1.0}", "credit.name=dr_grpo"]
    assert not find_warnings(load_settings(CONFIGS / "grpo.yaml", [*overrides, "reward.weights=[1.5]"]))
    (line,) = find_warnings(load_settings(CONFIGS / "grpo.yaml", [*overrides, "reward.weights=[2.5]"]))
    assert "a right answer may score -0.25 and a wrong one 0" in line


def test_a_shaping_that_learns_from_earlier_answers_needs_to_meet_problems_again():
    overrides = ["reward.shaping.name=hapo", "credit.name=dr_grpo", "steps=10", "rollout.prompts_per_step=8"]
    for count, met in ((81, False), (79, True)):
        found = find_warnings(load_settings(CONFIGS / "grpo.yaml", [*overrides, f"task.count={count}"]))
        assert any("meet none of" in line for line in found) != met


@pytest.mark.parametrize(
    ("prompts", "updates", "words"),
    [
        (8, 1, "8 / (3 ranks) = 2.67"),
        (2, 1, "2 / (3 ranks) = 0.67"),
        (12, 6, "12 / (3 ranks x 6 updates (optim.updates_per_batch)) = 0.67"),
    ],
)
def test_groups_that_do_not_stay_whole_on_ranks_are_refused_with_the_arithmetic(monkeypatch, prompts, updates, words):
    monkeypatch.setenv("WORLD_SIZE", "3")
    overrides = [f"rollout.prompts_per_step={prompts}", f"optim.updates_per_batch={updates}"]
    message = refusal("grpo", *overrides)
    assert words in message and "set rollout.prompts_per_step=" in message
    fitting = message.partition("prompts_per_step=")[2].split(",")[0].split(" or ")
    for number in fitting:
        check_settings(load_settings(CONFIGS / "grpo.yaml", [f"rollout.prompts_per_step={number}", overrides[1]]), TINY)


@pytest.mark.parametrize("engine", ["vllm", "vllm_server"])
def test_one_rank_trains_with_vllm(monkeypatch, engine):
    check_settings(load_settings(CONFIGS / "grpo.yaml", [f"rollout.engine={engine}"]), TINY)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert f"2 ranks are started but rollout.engine {engine} serves one" in refusal("grpo", f"rollout.engine={engine}")


@pytest.mark.parametrize(
    "variables",
    [{"ACCELERATE_USE_FSDP": "true"}, {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}],
)
def test_sharded_weights_are_refused_because_the_engine_needs_whole_ones(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert "decodes with whole ones" in refusal("grpo")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("targets=[q_porj]", "no linear layer 'q_porj'; did you mean q_proj"),
        ("targets=[lm_head]", "lm_head cannot have an adapter"),
        ("dropout=0.1", "adapter.dropout is 0.1 but must be 0"),
        ("r=0", "adapter.r is 0"),
        ("alpha=0", "adapter.alpha is 0"),
    ],
)
def test_an_adapter_that_cannot_work_is_refused_before_anything_is_loaded(override, words):
    with pytest.raises(ConfigError) as caught:
        settings = load_settings(CONFIGS / "grpo.yaml", ["adapter.name=lora", f"adapter.{override}"])
        check_settings(settings, TINY)
    assert words in str(caught.value)


def test_a_cache_bound_that_cannot_work_is_refused():
    assert "rollout.kv_gb is 0 but must be above 0" in refusal("grpo", "rollout.kv_gb=0")
    assert "is the server's; leave it out" in refusal("grpo", "rollout.kv_gb=2", "rollout.engine=vllm_server")


@pytest.mark.parametrize("method", ["hgpo", "hapo", "o1_pruner", "adaptive_lagrangian", "s_grpo", "thinkprune", "dler"])
def test_the_configuration_of_a_length_method_has_no_weight_that_credit_would_cancel(method):
    assert not any("cancels" in line for line in find_warnings(load_settings(CONFIGS / f"{method}.yaml")))


def test_other_credit_that_divides_by_a_deviation_cancels_weights_too():
    found = find_warnings(load_settings(CONFIGS / "kimi_length.yaml", ["credit.name=tree_grpo"]))
    assert any("credit tree_grpo divides" in line and "cancels" in line for line in found)


@pytest.mark.parametrize(("second", "twice"), [("alp", True), ("laser_d", True), ("ngram_rep", False)])
def test_two_prices_of_length_are_warned_about(second, twice):
    settings = load_settings(CONFIGS / "kimi_length.yaml", [f"reward.more=[{{name: {second}}}]"])
    words = f"kimi_length and {second} each reward short answers"
    assert any(words in line for line in find_warnings(settings)) == twice


@pytest.mark.parametrize(
    ("credit", "lost"), [("{name: dr_grpo}", True), ("{name: reinforce_pp, baseline: none}", False)]
)
def test_a_reference_accuracy_that_credit_would_cancel_is_warned_about(credit, lost):
    overrides = ["reward.shaping.reference=samples.parquet", f"credit={credit}"]
    found = find_warnings(load_settings(CONFIGS / "adaptthink.yaml", overrides))
    assert any("the reference has no effect" in line for line in found) == lost
