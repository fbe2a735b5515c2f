"""Truncated importance weights: worked numbers, when they act, and trl's ``token_truncate`` as a second opinion."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_inputs import NAN, inputs_of, value_and_gradient
from trl_side import CAP, NORMALIZERS, Case, all_leaves, always, configure, padded, rollouts, trl_batches

from laconic.errors import ConfigError
from laconic.train.objectives import OBJECTIVES, Clip, KlCov
from laconic.train.rows import flatten

RECOMPUTED = [Clip(old="recompute"), KlCov(old="recompute", coef=0.0)]
log_ratios = st.floats(-3, 3)


def with_engine(inputs, engine):
    return replace(inputs, engine_logp_M=torch.as_tensor(engine, dtype=torch.float64).expand_as(inputs.old_logp_M))


@pytest.mark.parametrize("objective", RECOMPUTED)
@pytest.mark.parametrize(
    ("trainer_over_engine", "weight"),
    [(1.0, 1.0), (1.5, 1.5), (0.25, 0.25), (2.0, 2.0), (7.0, 2.0), (1e12, 2.0), (1e-30, math.exp(-20))],
)
def test_worked_numbers(objective, trainer_over_engine, weight):
    # Before the first update the ratio is 1: the gradient of the log-prob is -advantage times the weight.
    inputs = with_engine(inputs_of(-1.2, -1.2, pos=0.5), -1.2 - math.log(trainer_over_engine))
    value, (slope,) = value_and_gradient(objective, inputs)
    assert (value, slope) == pytest.approx((-0.5 * weight, -0.5 * weight), rel=1e-9)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(log_ratios, log_ratios, st.floats(-3, 3), st.floats(1, 5), st.sampled_from([0.0, 0.7]))
def test_the_weight_multiplies_the_policy_term_and_nothing_else(update, engine, advantage, cap, nll):
    plain = Clip(old="recompute", importance="none", kl=0.3, entropy=0.1)
    inputs = inputs_of(-1 + update, -1.0, pos=max(advantage, 0), neg=min(advantage, 0), ref=-1.4, nll=nll, entropy=2.0)
    inputs = with_engine(inputs, -1 - engine)
    rest = replace(inputs, w_pos_M=0 * inputs.w_pos_M, w_neg_M=0 * inputs.w_neg_M)
    corrected = replace(plain, importance="token", importance_cap=cap)
    (whole, slope), (others, other_slope) = (value_and_gradient(plain, one) for one in (inputs, rest))
    value, gradient = value_and_gradient(corrected, inputs)
    weight = min(math.exp(engine), cap)
    assert value == pytest.approx(others + weight * (whole - others), rel=1e-9, abs=1e-9)
    assert gradient[0] == pytest.approx(other_slope[0] + weight * (slope[0] - other_slope[0]), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("method", OBJECTIVES.values())
@pytest.mark.parametrize("options", [{}, {"old": "recompute", "importance": "none"}])
def test_without_a_correction_nothing_changes_by_a_bit(method, options):
    rng = np.random.default_rng(0)
    logp, old, engine, pos = rng.normal(-2, 1, (4, 50))
    inputs = inputs_of(logp, old, pos=np.abs(pos), neg=-np.abs(engine) / 3)
    objective = method(**options)
    assert value_and_gradient(objective, inputs) == value_and_gradient(objective, with_engine(inputs, engine))
    assert "policy/importance" not in objective(with_engine(inputs, engine)).metrics


@pytest.mark.parametrize("objective", RECOMPUTED)
def test_an_engine_that_agrees_changes_nothing_by_a_bit(objective):
    rng = np.random.default_rng(1)
    logp, old, pos = rng.normal(-2, 1, (3, 50))
    inputs = inputs_of(logp, old, pos=np.abs(pos))
    off = replace(objective, importance="none")
    assert value_and_gradient(objective, with_engine(inputs, old)) == value_and_gradient(off, inputs)


@pytest.mark.parametrize("objective", RECOMPUTED)
def test_tokens_that_no_engine_sampled_have_weight_one(objective):
    inputs = inputs_of([-1.0, -3.0], [NAN, -3.0], pos=1.0)
    assert value_and_gradient(objective, with_engine(inputs, [-5.0, NAN]))[0] == pytest.approx(-2.0)


@pytest.mark.parametrize("objective", RECOMPUTED)
def test_metrics_say_how_many_tokens_were_capped(objective):
    inputs = with_engine(inputs_of([-1.0] * 4, -1.0, pos=1.0), [-1.0, -5.0, -1 - math.log(1.5), -1 + math.log(2)])
    metrics = objective(inputs).metrics
    assert metrics["policy/importance"] == pytest.approx((1 + 2 + 1.5 + 0.5) / 4)
    assert metrics["policy/importance_capped"] == 0.25
    assert objective(with_engine(inputs_of([], 0.0), 0.0)).metrics.keys() == metrics.keys()


@pytest.mark.parametrize("method", OBJECTIVES.values())
def test_a_cap_that_shrinks_tokens_that_agree_is_refused(method):
    with pytest.raises(ConfigError, match=r"objective\.importance_cap is 0\.9 but must be at least 1"):
        method(importance_cap=0.9)


@pytest.mark.parametrize("case", [Case(loss_type, 4, {"kl": 0.3}, {"beta": 0.3}) for loss_type in NORMALIZERS], ids=str)
def test_it_equals_trls_token_truncation_in_float64(case, trainer, flat_groups, monkeypatch):
    if case.loss_type == "bnpo":
        case = replace(case, accumulate=1)
    groups, advantage_N, ref = rollouts(flat_groups, 4)
    rng = np.random.default_rng(5)
    engine = [group.segments[leaf.segment].logp.astype(np.float64) for group, leaf in all_leaves(groups)]
    old = [values + rng.normal(0, 0.5, len(values)) for values in engine]
    logp = [values + rng.normal(0, 0.3, len(values)) for values in old]

    configure(trainer, case)
    monkeypatch.setattr(trainer, "use_vllm", True)
    monkeypatch.setattr(trainer, "vllm_importance_sampling_correction", True)
    want, grads = 0.0, {}
    for batch in trl_batches(groups, advantage_N, ref, case.accumulate, torch.float64):
        # As _generate_and_score_completions makes them in mode token_truncate with clip_max = 2.
        old_BT, engine_BT = (
            padded([side[row] for row in batch["rows"]], 0, dtype=torch.float64) for side in (old, engine)
        )
        batch["importance_sampling_ratio"] = torch.clamp(torch.exp(old_BT - engine_BT), min=None, max=2.0)
        batch["old_per_token_logps"] = old_BT
        logp_BT = padded([logp[row] for row in batch["rows"]], 0, dtype=torch.float64).requires_grad_()
        monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", always((logp_BT, logp_BT.detach(), None)))
        trainer.model.train()
        loss = trainer._compute_loss(trainer.model, batch)
        loss.backward()
        want += loss.item()
        for place, row in enumerate(batch["rows"]):
            grads[row] = logp_BT.grad[place, : len(old[row])]

    objective = case.objective(old="recompute")
    rows = flatten(groups, advantage_N, normalizer=objective.normalizer, max_completion=CAP, keep_all=True)
    weight_M = np.concatenate([np.full(len(values), row.weight) for row, values in zip(rows, old, strict=True)])
    weighted_M = weight_M * np.repeat(advantage_N, [len(values) for values in old])
    inputs = inputs_of(
        np.concatenate(logp), np.concatenate(old), pos=np.maximum(weighted_M, 0), neg=np.minimum(weighted_M, 0),
        ref=np.concatenate(ref), kl=weight_M,
    )  # fmt: skip
    inputs = with_engine(inputs, np.concatenate(engine))
    value, gradient = value_and_gradient(objective, inputs)
    assert value == pytest.approx(want, rel=1e-12)
    want_M = torch.cat([grads[row] for row in range(len(old))]).tolist()
    assert gradient == pytest.approx(want_M, rel=1e-10, abs=1e-13)
    plain, _ = value_and_gradient(replace(objective, importance="none"), inputs)
    assert abs(plain - want) > 1e-3
