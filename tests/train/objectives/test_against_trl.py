"""Loss and gradients against those of trl's own ``GRPOTrainer._compute_loss`` on the same rollouts.

Twice: through a model, with our rows, packs, forward and head on one side and trl's on the other; and in float64 on
given log-probs, where nothing but the formula can differ. Gradients of trl's micro-batches are added up, as its
trainer does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from laconic.kernels.logprob_head import add_logprob_head
from laconic.train.credit import Grpo
from laconic.train.forward import score
from laconic.train.objectives import Clip, LossInputs
from laconic.train.rows import flatten, to_packs
from laconic.train.thinker.tokenizer import build_tokenizer

CAP = 24
LENGTHS = [[5, 9, 1, 12, 24, 3, 8, 8], [3, 7, 2, 20, 6, 6, 11, 4]]
REWARDS = [1, 0, 1, 1, 0, 0, 1, 0, 0, 1, 1, 1, 1, 0.5, 1, 1]
NORMALIZERS = {"grpo": "row_mean", "dapo": "token_mean", "bnpo": "token_mean", "dr_grpo": "constant"}


@dataclass(frozen=True)
class Case:
    loss_type: str
    accumulate: int = 1
    ours: dict[str, Any] = field(default_factory=dict)
    trl: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.loss_type, f"accumulate{self.accumulate}", *self.ours])


VARIANTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"epsilon_high": 0.28}, {"epsilon_high": 0.28}),
    ({"delta": 1.5}, {"delta": 1.5}),
    ({"kl": 0.3}, {"beta": 0.3}),
    ({"kl": 0.3, "bias_corrected_kl": False}, {"beta": 0.3, "use_bias_correction_kl": False}),
    (
        {"epsilon_low": 0.1, "epsilon_high": 0.28, "delta": 1.5, "kl": 0.3},
        {"epsilon": 0.1, "epsilon_high": 0.28, "delta": 1.5, "beta": 0.3},
    ),
]
CASES = [
    Case(loss_type, accumulate, ours, trl)
    for loss_type in ("grpo", "dapo", "dr_grpo")
    for accumulate in (1, 4)
    for ours, trl in VARIANTS
]
# bnpo divides by the tokens of each micro-batch, and the entropy bonus is a mean over them: both equal a mean over the
# tokens of the update where there is one micro-batch.
CASES += [Case("bnpo", 1, ours, trl) for ours, trl in VARIANTS]
CASES += [Case("dapo", 1, {"entropy": 0.2}, {"entropy_coef": 0.2})]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """One trainer for all cases; its options are plain attributes."""
    model = Qwen2ForCausalLM(
        Qwen2Config(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
                    intermediate_size=32, max_position_embeddings=64, pad_token_id=0, bos_token_id=None)
    )  # fmt: skip
    args = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")), use_cpu=True, bf16=False, report_to="none", num_generations=8,
        per_device_train_batch_size=16, max_completion_length=CAP, gradient_checkpointing=False, temperature=0.8,
    )  # fmt: skip
    prompts = Dataset.from_dict({"prompt": ["1+1="]})
    return GRPOTrainer(model, lambda **_: [0.0], args, train_dataset=prompts, processing_class=build_tokenizer())


def configure(trainer: GRPOTrainer, case: Case) -> None:
    defaults = dict(beta=0.0, delta=None, epsilon=0.2, epsilon_high=0.2, use_bias_correction_kl=True, entropy_coef=0.0)
    options = {**defaults, **case.trl}
    trainer.args.delta, trainer.args.use_bias_correction_kl = options["delta"], options["use_bias_correction_kl"]
    trainer.beta, trainer.epsilon_low, trainer.epsilon_high = (options[k] for k in ("beta", "epsilon", "epsilon_high"))
    trainer.entropy_coef, trainer._entropy_bonus_enabled = options["entropy_coef"], options["entropy_coef"] != 0
    trainer.loss_type = case.loss_type
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


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_whole_update_equals_trls_through_a_model(case, trainer, flat_groups, tiny_qwen, monkeypatch):
    groups, advantage_N, ref = rollouts(flat_groups, 1)
    ours, theirs = tiny_qwen().float(), tiny_qwen().float()
    near_policy(groups, ours)

    configure(trainer, case)
    monkeypatch.setattr(trainer, "model", theirs)
    add_fused_lm_head(theirs, temperature=0.8, outputs=("log_probs", "entropy"))
    theirs.train()
    want = 0.0
    for batch in trl_batches(groups, advantage_N, ref, case.accumulate):
        loss = trainer._compute_loss(theirs, batch)
        loss.backward()
        want += loss.item()

    add_logprob_head(ours, temperature=0.8)
    objective = Clip(normalizer=NORMALIZERS[case.loss_type], **case.ours)
    rows = flatten(
        groups, advantage_N, normalizer=objective.normalizer, max_completion=CAP,
        keep_all=objective.touches_all_tokens,
    )  # fmt: skip
    got = 0.0
    for pack in to_packs(rows, 90):
        index_M, log_probs_M, entropy_M = score(ours, pack, "cpu")
        ref_of = {tuple(row_ids(group, leaf)): ref[row] for row, (group, leaf) in enumerate(all_leaves(groups))}
        ref_N = np.concatenate([with_prompt(ref_of, pack.ids[start:stop]) for start, stop in pack.trees])
        columns = (pack.old_logp, ref_N, pack.w_pos, pack.w_neg, pack.w_kl, pack.w_ent, pack.w_nll)
        constants = [torch.from_numpy(column[index_M].astype(np.float32)) for column in columns]
        loss = objective(LossInputs(log_probs_M, entropy_M, *constants)).loss
        loss.backward()
        got += loss.item()

    assert got == pytest.approx(want, rel=1e-5, abs=1e-5)
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        scale = other.grad.norm().clamp(min=1e-6)
        assert (one.grad - other.grad).norm() < 1e-5 * scale + 1e-8, name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_formula_equals_trls_in_float64(case, trainer, flat_groups, monkeypatch):
    groups, advantage_N, ref = rollouts(flat_groups, 2)
    rng = np.random.default_rng(3)
    old = [group.segments[leaf.segment].logp.astype(np.float64) for group, leaf in all_leaves(groups)]
    logp = [values + rng.normal(0, 0.3, len(values)) for values in old]
    entropy = [rng.exponential(1.0, len(values)) for values in old]

    configure(trainer, case)
    want, grads = 0.0, {}
    for batch in trl_batches(groups, advantage_N, ref, case.accumulate, torch.float64):
        logp_BT = padded([logp[row] for row in batch["rows"]], 0, dtype=torch.float64).requires_grad_()
        entropy_BT = padded([entropy[row] for row in batch["rows"]], 0, dtype=torch.float64).requires_grad_()
        monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", always((logp_BT, entropy_BT, None)))
        trainer.model.train()
        loss = trainer._compute_loss(trainer.model, batch)
        loss.backward()
        want += loss.item()
        for place, row in enumerate(batch["rows"]):
            grads[row] = logp_BT.grad[place, : len(old[row])]

    objective = Clip(normalizer=NORMALIZERS[case.loss_type], **case.ours)
    rows = flatten(groups, advantage_N, normalizer=objective.normalizer, max_completion=CAP, keep_all=True)
    weight_M = np.concatenate([np.full(len(values), row.weight) for row, values in zip(rows, old, strict=True)])
    weighted_M = weight_M * np.repeat(advantage_N, [len(values) for values in old])
    columns = (
        np.concatenate(old), np.concatenate(ref), np.maximum(weighted_M, 0), np.minimum(weighted_M, 0), weight_M,
        weight_M, 0 * weight_M,
    )  # fmt: skip
    logp_M = torch.tensor(np.concatenate(logp), requires_grad=True)
    loss = objective(LossInputs(logp_M, torch.tensor(np.concatenate(entropy)), *map(torch.tensor, columns))).loss
    loss.backward()
    assert loss.item() == pytest.approx(want, rel=1e-12)
    want_M = torch.cat([grads[row] for row in range(len(old))])
    torch.testing.assert_close(logp_M.grad, want_M, rtol=1e-10, atol=1e-13)


def always(answer: Any) -> Callable[..., Any]:
    """A function that gives ``answer`` whatever it is asked."""
    return lambda *_, **__: answer


def near_policy(groups, model) -> None:
    """Make the behaviour log-probs those of the model, moved by up to 0.5, so that some ratios are clipped."""
    rng = np.random.default_rng(5)
    for group, leaf in all_leaves(groups):
        ids = torch.tensor(row_ids(group, leaf))[None]
        with torch.no_grad():
            log_p_TV = (model(input_ids=ids).logits[0] / 0.8).log_softmax(-1)
        own = log_p_TV[:-1].gather(1, ids[0, 1:, None])[:, 0].numpy()
        segment = group.segments[leaf.segment]
        segment.logp[:] = own[-len(segment) :] + rng.uniform(-0.5, 0.5, len(segment))


def all_leaves(groups):
    return [(group, leaf) for group in groups for leaf in group.leaves]


def row_ids(group, leaf) -> list[int]:
    return group.context_ids(leaf.segment).tolist()


def with_prompt(ref_of, ids: np.ndarray) -> np.ndarray:
    """Reference log-probs of a row, NaN on its prompt."""
    answer = ref_of[tuple(ids.tolist())]
    return np.concatenate([np.full(len(ids) - len(answer), np.nan), answer])
