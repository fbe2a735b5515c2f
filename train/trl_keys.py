"""Keys of trl's GRPOConfig that would silently lose their effect here, and what to say instead.

The trainer replaces trl's data path, loss, evaluation and checkpoints. A key that only those read is refused, so that
nobody believes in a setting that does nothing. Everything else under ``trl:`` (trackers, precision, DeepSpeed, FSDP,
optimizer variants, Hub) is passed on.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from .settings_io import CUT_SAMPLING

OWN_KEYS = {
    "beta": "objective.kl",
    "entropy_coef": "objective.entropy",
    "epsilon": "objective.epsilon_low",
    "epsilon_high": "objective.epsilon_high",
    "generation_batch_size": "rollout.prompts_per_step",
    "gradient_accumulation_steps": "optim.micro_batch_tokens",
    "gradient_checkpointing": "optim.gradient_checkpointing",
    "learning_rate": "optim.lr",
    "loss_type": "objective.normalizer",
    "lr_scheduler_type": "optim.schedule",
    "max_completion_length": "rollout.max_completion",
    "max_grad_norm": "optim.max_grad_norm",
    "max_steps": "steps",
    "num_generations": "rollout.group_size",
    "num_iterations": "optim.epochs",
    "num_train_epochs": "steps",
    "output_dir": "name",
    "per_device_train_batch_size": "optim.micro_batch_tokens",
    "save_steps": "save.every",
    "save_total_limit": "save.keep",
    "scale_rewards": "credit",
    "seed": "seed",
    "steps_per_generation": "optim.updates_per_batch",
    "temperature": "rollout.temperature",
    "warmup_steps": "optim.warmup_steps",
    "weight_decay": "optim.weight_decay",
}
"""Key of trl -> the setting that does it here."""

_GENERATION = "answers are decoded by our engines, which read only the rollout section"
_LOSS = "the loss is the objective section's, trl's own is not run"
_DATA = "prompts come from the sampler section, trl's dataloader only ticks"
_EVAL = "evaluation is `laconic eval`, trl's own is not run"
_LOG = "metrics and sampled rollouts are written to the run's folder (save.rollouts_every)"
_MODEL = "the model is loaded before trl sees it"
_STATE = "checkpoints are ours, atomic and at generation boundaries, and the same command continues a run"
_RANKS = "ranks meet before trl starts (train/ranks.py)"
_REWARD = "rewards come from the reward section"

WITHOUT_EFFECT = {
    **dict.fromkeys(
        ("cache_implementation", "chat_template_kwargs", "ds3_gather_for_generation", "generation_kwargs",
         "max_tool_calling_iterations", "num_generations_eval", "repetition_penalty",
         "transformers_continuous_batching_config", "use_transformers_continuous_batching", "use_transformers_paged",
         "use_vllm"), _GENERATION),
    **dict.fromkeys(("min_p", "top_k", "top_p"), CUT_SAMPLING),
    **dict.fromkeys(
        ("delta", "entropy_coef_delta", "entropy_coef_max", "entropy_coef_min", "entropy_target",
         "cast_lm_head_to_fp32", "importance_sampling_level", "mask_truncated_completions",
         "off_policy_mask_threshold", "pad_to_multiple_of", "router_aux_loss_coef", "top_entropy_quantile",
         "use_adaptive_entropy", "use_bias_correction_kl", "use_liger_kernel", "label_smoothing_factor",
         "average_tokens_across_devices"), _LOSS),
    **dict.fromkeys(
        ("data_seed", "ignore_data_skip", "remove_unused_columns", "shuffle_dataset", "train_sampling_strategy",
         "length_column_name", "auto_find_batch_size"), _DATA),
    **dict.fromkeys(
        ("do_eval", "do_predict", "per_device_eval_batch_size", "prediction_loss_only", "batch_eval_metrics",
         "load_best_model_at_end", "metric_for_best_model", "greater_is_better"), _EVAL),
    **dict.fromkeys(
        ("log_completions", "log_completions_hub_repo", "log_multimodal", "log_unique_prompts",
         "num_completions_to_print", "logging_steps", "logging_strategy", "logging_nan_inf_filter"), _LOG),
    **dict.fromkeys(("model_init_kwargs", "trust_remote_code"), _MODEL),
    **dict.fromkeys(("resume_from_checkpoint", "save_strategy", "save_only_model"), _STATE),
    **dict.fromkeys(("ddp_backend", "ddp_timeout"), _RANKS),
    **dict.fromkeys(("multi_objective_aggregation", "reward_weights"), _REWARD),
}  # fmt: skip
"""Key of trl -> why it would do nothing."""

WITHOUT_EFFECT_PREFIX = {"vllm_": _GENERATION, "sapo_": _LOSS, "vespo_": _LOSS, "dataloader_": _DATA, "eval_": _EVAL}
"""Families of such keys."""


def reason_refused(key: str) -> str | None:
    """What is wrong with ``key`` under ``trl:``, or None when trl acts on it."""
    if key in OWN_KEYS:
        return f"here the setting is {OWN_KEYS[key]}; set that instead"
    if key in WITHOUT_EFFECT:
        return f"it would have no effect: {WITHOUT_EFFECT[key]}; delete it"
    for prefix, reason in WITHOUT_EFFECT_PREFIX.items():
        if key.startswith(prefix):
            return f"it would have no effect: {reason}; delete it"
    return None


def check_trl_keys(trl: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` for a key of the ``trl`` section that is unknown to trl or would do nothing."""
    for key in trl:
        if reason := reason_refused(key):
            raise ConfigError(f"trl.{key}: {reason}")
    if not trl:
        return
    # Imported late: trl takes seconds, and most configurations have no such section.
    from dataclasses import fields

    from trl import GRPOConfig

    known = {field.name for field in fields(GRPOConfig)}
    for key in trl:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"; did you mean trl.{close[0]}?" if close else ""
            raise ConfigError(f"trl.{key} is not a key of GRPOConfig{hint}")
