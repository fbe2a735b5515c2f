"""trl's side of a comparison: its trainer, and its micro-batches of the rollouts that ours trains on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from laconic.train.credit import Grpo
from laconic.train.objectives import Cispo, Clip, Gspo, Objective, Sapo
from laconic.train.thinker.tokenizer import build_tokenizer

CAP = 24
LENGTHS = [[5, 9, 1, 12, 24, 3, 8, 8], [3, 7, 2, 20, 6, 6, 11, 4]]
REWARDS = [1, 0, 1, 1, 0, 0, 1, 0, 0, 1, 1, 1, 1, 0.5, 1, 1]
OWN_LOSSES: dict[str, Any] = {"cispo": Cispo, "sapo": Sapo, "gspo": Gspo}
"""Ours -> class; what trl calls gspo is its loss type grpo with ratios of whole sequences."""
NORMALIZERS = {"grpo": "row_mean", "dapo": "token_mean", "bnpo": "token_mean", "dr_grpo": "constant"}


@dataclass(frozen=True)
class Case:
    loss_type: str
    accumulate: int = 1
    ours: dict[str, Any] = field(default_factory=dict)
    trl: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.loss_type, f"accumulate{self.accumulate}", *self.ours])

    def objective(self, **more: Any) -> Objective:
        """Ours."""
        if self.loss_type in OWN_LOSSES:
            return OWN_LOSSES[self.loss_type](**self.ours, **more)
        return Clip(normalizer=NORMALIZERS[self.loss_type], **self.ours, **more)


def make_trl_trainer(folder: Path) -> GRPOTrainer:
    """trl's trainer of a random model; its options are plain attributes."""
    model = Qwen2ForCausalLM(
        Qwen2Config(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
                    intermediate_size=32, max_position_embeddings=64, pad_token_id=0, bos_token_id=None)
    )  # fmt: skip
    args = GRPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", num_generations=8,
        per_device_train_batch_size=16, max_completion_length=CAP, gradient_checkpointing=False, temperature=0.8,
    )  # fmt: skip
    prompts = Dataset.from_dict({"prompt": ["1+1="]})
    return GRPOTrainer(model, lambda **_: [0.0], args, train_dataset=prompts, processing_class=build_tokenizer())


def configure(trainer: GRPOTrainer, case: Case) -> None:
    defaults = dict(beta=0.0, delta=None, epsilon=0.2, epsilon_high=0.2, use_bias_correction_kl=True, entropy_coef=0.0)
    options = {"tau_pos": 1.0, "tau_neg": 1.05, **defaults, **case.trl}
    trainer.args.sapo_temperature_pos, trainer.args.sapo_temperature_neg = options["tau_pos"], options["tau_neg"]
    trainer.args.delta, trainer.args.use_bias_correction_kl = options["delta"], options["use_bias_correction_kl"]
    trainer.beta, trainer.epsilon_low, trainer.epsilon_high = (options[k] for k in ("beta", "epsilon", "epsilon_high"))
    trainer.entropy_coef, trainer._entropy_bonus_enabled = options["entropy_coef"], options["entropy_coef"] != 0
    sequence = case.loss_type == "gspo"
    trainer.loss_type = "grpo" if sequence else case.loss_type
    trainer.importance_sampling_level = "sequence" if sequence else "token"
    trainer.args.steps_per_generation = trainer.current_gradient_accumulation_steps = case.accumulate


def padded(values, fill: float, left: bool = False, dtype=torch.long) -> Tensor:
    width = max(map(len, values))
    sides = [(width - len(value), 0) if left else (0, width - len(value)) for value in values]
    rows = [np.pad(value, side, constant_values=fill) for value, side in zip(values, sides, strict=True)]
    return torch.tensor(np.stack(rows), dtype=dtype)


def trl_batches(groups, advantage_N, ref, accumulate: int, dtype=torch.float32) -> list[dict[str, Tensor]]:
    """trl's micro-batches; ``ref`` maps (group, leaf) to reference log-probs of the answer."""
    leaves = [(group, leaf) for group in groups for leaf in group.leaves]
    # Rows of both groups in every micro-batch, as after trl's shuffle.
    order = np.random.default_rng(0).permutation(len(leaves)).reshape(accumulate, -1)
    tokens = sum(group.trained_length(leaf) for group, leaf in leaves)
    batches = []
    for part in order:
        prompts = [leaves[row][0].segments[0].ids for row in part]
        answers = [leaves[row][0].response_ids(leaves[row][1]) for row in part]
        old = [leaves[row][0].segments[leaves[row][1].segment].logp for row in part]
        batches.append(
            {
                "rows": part,
                "prompt_ids": padded(prompts, 0, left=True),
                "prompt_mask": padded([np.ones(len(p)) for p in prompts], 0, left=True),
                "completion_ids": padded(answers, 0),
                "completion_mask": padded([np.ones(len(a)) for a in answers], 0),
                "advantages": torch.tensor(advantage_N[part], dtype=dtype),
                "old_per_token_logps": padded(old, 0, dtype=dtype),
                "ref_per_token_logps": padded([ref[row] for row in part], 0, dtype=dtype),
                "num_items_in_batch": torch.tensor(float(tokens)),
            }
        )
    return batches


def rollouts(flat_groups, seed: int):
    groups = flat_groups(seed, LENGTHS)
    rng = np.random.default_rng(seed)
    ref = [rng.uniform(-6, -1, leaf_length) for lengths in LENGTHS for leaf_length in lengths]
    return groups, Grpo()(REWARDS, np.repeat([0, 1], 8)), ref


def all_leaves(groups):
    return [(group, leaf) for group in groups for leaf in group.leaves]


def always(answer: Any) -> Callable[..., Any]:
    """A function that gives ``answer`` whatever it is asked."""
    return lambda *_, **__: answer
