"""Loss and gradients against those of trl's own ``GRPOTrainer._compute_loss`` on the same rollouts.

Twice: through a model, with our rows, packs, forward and head on one side and trl's on the other; and in float64 on
given log-probs, where nothing but the formula can differ. Gradients of trl's micro-batches are added up, as its
trainer does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from trl.trainer.utils import add_fused_lm_head
from trl_side import CAP, Case, all_leaves, always, configure, padded, rollouts, trl_batches

from laconic.kernels.logprob_head import add_logprob_head
from laconic.train.forward import score
from laconic.train.objectives import LossInputs
from laconic.train.rows import flatten, to_packs

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
CASES += [
    Case(loss_type, accumulate, ours | kl, trl | ({"beta": 0.3} if kl else {}))
    for accumulate in (1, 4)
    for kl in ({}, {"kl": 0.3})
    for loss_type, ours, trl in [
        ("cispo", {"cap": 1.2}, {"epsilon_high": 1.2}),
        # Exact in float32, in which trl keeps them.
        ("sapo", {"tau_pos": 0.75, "tau_neg": 1.0625}, {"tau_pos": 0.75, "tau_neg": 1.0625}),
        (
            "gspo",
            {"token_credit": False, "epsilon_low": 0.05, "epsilon_high": 0.05},
            {"epsilon": 0.05, "epsilon_high": 0.05},
        ),
    ]
]
CASES += [Case("gspo", 1, {"epsilon_low": 0.05, "epsilon_high": 0.05}, {"epsilon": 0.05, "epsilon_high": 0.05})]


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
    objective = case.objective()
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
        loss = objective(LossInputs(log_probs_M, entropy_M, *constants, row_M=torch.from_numpy(pack.row[index_M]))).loss
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

    objective = case.objective()
    rows = flatten(groups, advantage_N, normalizer=objective.normalizer, max_completion=CAP, keep_all=True)
    weight_M = np.concatenate([np.full(len(values), row.weight) for row, values in zip(rows, old, strict=True)])
    weighted_M = weight_M * np.repeat(advantage_N, [len(values) for values in old])
    columns = (
        np.concatenate(old), np.concatenate(ref), np.maximum(weighted_M, 0), np.minimum(weighted_M, 0), weight_M,
        weight_M, 0 * weight_M,
    )  # fmt: skip
    logp_M = torch.tensor(np.concatenate(logp), requires_grad=True)
    row_M = torch.from_numpy(np.repeat(np.arange(len(old)), [len(values) for values in old]))
    entropy_M = torch.tensor(np.concatenate(entropy))
    loss = objective(LossInputs(logp_M, entropy_M, *map(torch.tensor, columns), row_M=row_M)).loss
    loss.backward()
    assert loss.item() == pytest.approx(want, rel=1e-12)
    want_M = torch.cat([grads[row] for row in range(len(old))])
    torch.testing.assert_close(logp_M.grad, want_M, rtol=1e-10, atol=1e-13)


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


def row_ids(group, leaf) -> list[int]:
    return group.context_ids(leaf.segment).tolist()


def with_prompt(ref_of, ids: np.ndarray) -> np.ndarray:
    """Reference log-probs of a row, NaN on its prompt."""
    answer = ref_of[tuple(ids.tolist())]
    return np.concatenate([np.full(len(ids) - len(answer), np.nan), answer])
