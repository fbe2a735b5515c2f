"""``laconic train configs/methods/treepo.yaml`` takes trees by itself, and prints path, ratio and what they save."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from laconic.train.metrics_log import read_metrics
from laconic.train.packing.choose import LEAST_GAIN


def test_the_printed_lines_say_path_ratio_and_saved_seconds(tmp_path: Path) -> None:
    small = ("name=trees", "steps=2", "threads=1", "rollout.prompts_per_step=4", "save.rollouts_every=0")
    command = [sys.executable, "-m", "laconic", "train", "configs/methods/treepo.yaml", *small]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]
    first, second = read_metrics(tmp_path / "runs" / "trees" / "metrics.jsonl")
    assert answer.stdout.count("training on") == 1 and f"training on tree: {first['pack/why']}" in answer.stdout
    for step, line in enumerate((first, second), start=1):
        assert line["pack/path"] == "tree" and line["pack/gain"] >= LEAST_GAIN and line["pack/saved_seconds"] > 0
        (printed,) = [text for text in answer.stdout.splitlines() if text.split()[:2] == ["step", f"{step}/2"]]
        assert f"packed {line['pack/ratio']:.2f}x, saved {line['pack/saved_seconds']:.2f} s" in printed
