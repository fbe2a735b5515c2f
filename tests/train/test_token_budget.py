"""Training ends where its tokens are spent; an ended run stays as it is, and goes on when it is given more."""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path

import pytest

from laconic.benchmarks.soak_kill import Run
from laconic.errors import ConfigError
from laconic.train.checks import check_settings
from laconic.train.derived import derive
from laconic.train.metrics_log import read_metrics
from laconic.train.settings import load_settings
from laconic.train.token_budget import decoded_tokens

BUDGET = 5000
"""Two or three generations."""
CONFIG = "configs/methods/dot.yaml"


def run_with(folder: Path, tokens: int) -> Run:
    run = Run(folder, "run", steps=50, overrides=(f"tokens={tokens}", "save.every=100"))
    run.finish(run.start())
    return run


def test_training_ends_with_the_generation_that_spends_the_tokens(tmp_path: Path) -> None:
    run = run_with(tmp_path, BUDGET)
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

    more = read_metrics(run_with(tmp_path, spent + 1).path / "metrics.jsonl")
    assert more[:-1] == lines and [line["step"] for line in more[-2:]] == [len(lines), len(lines) + 1]


def test_a_run_without_a_log_has_spent_nothing(tmp_path: Path) -> None:
    assert decoded_tokens(tmp_path / "metrics.jsonl") == 0


def test_the_dry_run_says_where_training_ends_and_less_than_nothing_is_refused() -> None:
    given = load_settings(CONFIG, [f"tokens={BUDGET}"])
    assert any("ending when 5,000 are decoded" in line for line in derive(given, None))
    assert not any("ending when" in line for line in derive(load_settings(CONFIG), None))
    with pytest.raises(ConfigError, match="tokens is -1"):
        check_settings(load_settings(CONFIG, ["tokens=-1"]), None)
