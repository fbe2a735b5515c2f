"""A LoRA adapter of the tiny thinker: trained, killed, resumed, evaluated, merged, pushed, evaluated by its id."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from laconic.benchmarks.soak_kill import Run, wait_until
from laconic.errors import DataError
from laconic.train.adapter import merge
from laconic.train.checkpoint import latest_checkpoint, step_of
from laconic.train.evaluation import evaluate_model
from laconic.train.metrics_log import read_metrics

STEPS = 4
LORA = ("adapter.name=lora", "adapter.r=4", "adapter.alpha=8", "optim.lr=1e-2", "save.every=1")
EVAL = {"problems": 6, "k": 2, "max_completion": 160}
OPTIONS = ("-n", "6", "-k", "2", "--max-completion", "160", "--task", "chain")


def evaluate(model: str | Path, out: Path, adapter: Path | None = None) -> dict[str, Any]:
    given = None if adapter is None else str(adapter)
    return evaluate_model(str(model), ["chain"], adapter=given, options=EVAL, name="lora", out=out, quiet=True)


def table(folder: Path) -> list[dict[str, Any]]:
    columns = ["problem_id", "sample_idx", "response_token_ids", "verdict"]
    rows: list[dict[str, Any]] = pq.read_table(folder / "samples.parquet").select(columns).to_pylist()
    return rows


def test_an_adapter_goes_all_the_way_and_is_the_same_model_everywhere(
    hub: Any, laconic: Callable[..., Any], tmp_path: Path
) -> None:
    lora = Run(tmp_path, "lora", STEPS, LORA)
    process = lora.start()
    wait_until(lambda: lora.steps_done >= 2 and lora.phase == "rollout", process, lora)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    saved = latest_checkpoint(lora.path / "checkpoints")
    assert saved is not None and 2 <= step_of(saved) < STEPS and not (lora.path / "model").exists()

    # Before it is finished a checkpoint can be evaluated, and the run says so.
    with pytest.raises(DataError, match="no finished model yet.*or evaluate one of the folders in .*checkpoints"):
        evaluate(lora.path, tmp_path / "early")
    evaluate(saved, tmp_path / "checkpoint")
    evaluate("tiny-thinker", tmp_path / "base")

    lora.finish(lora.start())
    assert [line["step"] for line in read_metrics(lora.path / "metrics.jsonl")] == list(range(1, STEPS + 1))
    here = evaluate(lora.path, lora.path / "evaluation")
    evaluate("tiny-thinker", tmp_path / "on-base", adapter=lora.path)
    evaluate(lora.path / "model", tmp_path / "folder")
    evaluate(merge(lora.path, tmp_path / "whole"), tmp_path / "merged")
    samples = table(lora.path / "evaluation")
    assert len(samples) == 12 and samples != table(tmp_path / "base"), "the adapter does something"
    assert all(table(tmp_path / name) == samples for name in ("on-base", "folder", "merged"))

    pushed = laconic("pusher", "push", str(lora.path), "--repo", "lora")
    assert pushed["kind"] == "adapter" and pushed["evaluations"] == 1
    there = laconic("reader", "eval", "alice/lora", *OPTIONS, "--out", "there")
    assert table(tmp_path / "there") == samples
    assert there["model"]["weights_hash"] == here["model"]["weights_hash"]
    for block in ("accuracy", "tokens", "cost"):
        assert there["overall"][block] == here["overall"][block]
