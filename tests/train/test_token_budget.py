"""Training ends where its tokens are spent, and an ended run stays as it is."""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path

from laconic.benchmarks.soak_kill import Run
from laconic.train.metrics_log import read_metrics
from laconic.train.token_budget import decoded_tokens

BUDGET = 1500


def test_training_ends_with_the_generation_that_spends_the_tokens(tmp_path: Path) -> None:
    run = Run(tmp_path, "run", steps=50, overrides=(f"tokens={BUDGET}", "save.every=100"))
    run.finish(run.start())
    lines = read_metrics(run.path / "metrics.jsonl")
    *before, spent = accumulate(line["tokens/decoded"] for line in lines)
    assert spent >= BUDGET and all(tokens < BUDGET for tokens in before)
    assert decoded_tokens(run.path / "metrics.jsonl") == spent and 1 < len(lines) < 50
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["steps"] == len(lines)
    weights = (run.path / "model" / "model.safetensors").read_bytes()

    run.finish(run.start())
    assert read_metrics(run.path / "metrics.jsonl") == lines, "the same command trains no further"
    assert (run.path / "model" / "model.safetensors").read_bytes() == weights


def test_a_run_without_a_log_has_spent_nothing(tmp_path: Path) -> None:
    assert decoded_tokens(tmp_path / "metrics.jsonl") == 0
