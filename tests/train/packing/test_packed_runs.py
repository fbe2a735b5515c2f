"""Runs that train on trees: equal to those on rows, and with a log that says so."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_trainer import equal, stopped_and_resumed, weights

from laconic.errors import ConfigError
from laconic.rewards.verdict import Judgement, Verdict
from laconic.train.metrics_log import read_metrics
from laconic.train.packing import attention
from laconic.train.packing.attention import TREE_ATTENTION, takes_trees

TREE = ("rollout.driver.segment_tokens=3", "rollout.driver.depth=4", "sampler.filter=none", "optim.lr=1e-3")


def trained(make, packing: str, *overrides: str, config: str = "treepo"):
    trainer = make(config, *TREE, f"optim.packing={packing}", *overrides, folder=packing)
    trainer.train()
    return trainer, read_metrics(trainer.run_dir / "metrics.jsonl")


@pytest.mark.parametrize(
    "overrides",
    [
        ("steps=2", "objective.kl=0.1", "objective.old=recompute", "objective.entropy=0.01"),
        ("optim.micro_batch_tokens=24", "optim.updates_per_batch=2", "optim.epochs=2", "objective.name=gppo"),
        ("adapter.name=lora", "optim.gradient_checkpointing=true", "objective.kl=0.1"),
    ],
    ids=["kl-old-entropy", "cut-several-updates", "adapter-checkpointing"],
)
def test_a_run_on_trees_is_the_run_on_rows(make, overrides):
    (rows, flat), (trees, packed) = (trained(make, packing, *overrides) for packing in ("rows", "tree"))
    for one, other in zip(flat, packed, strict=True):
        assert one["prompt_ids_hash"] == other["prompt_ids_hash"]
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4, abs=1e-6)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    weights = zip(rows.model.named_parameters(), trees.model.named_parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=2e-5) for (_, a), (_, b) in weights)
    first = packed[0]
    assert first["pack/path"] == "tree" and first["pack/why"].startswith("optim.packing is tree")
    assert first["pack/ratio"] > 1.1 and first["pack/saved_tokens"] > 0 and math.isfinite(first["pack/saved_seconds"])
    assert first["tokens/forward"] < flat[0]["tokens/forward"]
    assert flat[0]["pack/path"] == "rows" and flat[0]["pack/saved_seconds"] == flat[0]["pack/saved_tokens"] == 0


def test_auto_uses_rows_for_an_objective_that_needs_them_and_says_why(make):
    trainer, lines = trained(make, "auto", "objective.name=gspo")
    assert lines[0]["pack/path"] == "rows" and "objective gspo needs each row by itself" in lines[0]["pack/why"]
    assert lines[0]["pack/ratio"] > 1.1 and not takes_trees(trainer.model)


def test_a_model_that_fails_the_self_test_is_trained_on_rows_or_not_at_all(make, monkeypatch):
    def blind(module, query, key, value, mask, *, tree=None, **kwargs):
        return attention.sdpa_attention_forward(module, query, key, value, None, is_causal=True, **kwargs)

    monkeypatch.setitem(attention.AttentionInterface._global_mapping, TREE_ATTENTION, blind)
    _, lines = trained(make, "auto")
    assert lines[0]["pack/path"] == "rows" and "ignores which tokens belong to which" in lines[0]["pack/why"]
    with pytest.raises(ConfigError, match="optim.packing is tree, but model type qwen2 can't be packed"):
        make("treepo", *TREE, "optim.packing=tree")


def test_a_path_longer_than_the_budget_is_packed_alone_with_a_warning(make, caplog):
    _, lines = trained(make, "tree", "optim.micro_batch_tokens=5")
    assert lines[0]["pack/path"] == "tree" and lines[0]["grad_norm"] > 0
    assert "is longer than optim.micro_batch_tokens = 5 and can't be cut" in caplog.text


def test_a_run_on_trees_that_was_stopped_ends_as_one_that_was_not(make):
    setup = ("treepo", *TREE, "optim.packing=tree", "objective.kl=0.1", "steps=4", "save.every=1", "save.keep=4")
    alone = make(*setup, folder="alone")
    alone.train()
    resumed = stopped_and_resumed(make, *setup, generation=2)
    keys = ("step", "loss", "grad_norm", "prompt_ids_hash", "pack/path", "pack/why", "pack/ratio", "pack/gain")
    one, two = (
        [[line[key] for key in keys] for line in read_metrics(run.run_dir / "metrics.jsonl")]
        for run in (alone, resumed)
    )
    assert one == two and [line[4] for line in one] == ["tree"] * 4 and len({line[2] for line in one}) == 4
    assert equal(weights(alone), weights(resumed))


@pytest.mark.parametrize("packing", ["auto", "tree"])
def test_a_step_in_which_no_answer_has_an_advantage_trains_nothing_and_says_so(make, packing):
    def nothing_is_right(items):
        return [Judgement(Verdict.WRONG)] * len(items)

    trainer = make("treepo", *TREE, f"optim.packing={packing}", judge=nothing_is_right)
    before = weights(trainer)
    trainer.train()
    (line,) = read_metrics(trainer.run_dir / "metrics.jsonl")
    assert line["pack/path"] == "none" and line["pack/why"] == "no answer has an advantage"
    assert line["pack/ratio"] == line["pack/gain"] == 1 and line["pack/saved_tokens"] == line["pack/saved_seconds"] == 0
    assert line["tokens/forward"] == 0 and equal(before, weights(trainer))
