"""`make bench-gpu`: every bar of a GPU figure has a part that measures it, and every part gets an outcome."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest

from laconic.benchmarks import gpu, gpu_bars
from laconic.benchmarks.claim import ROOT
from laconic.benchmarks.gpu import PARTS, Part
from laconic.benchmarks.gpu_bars import BARS, verdict


def test_every_gpu_bar_has_one_limit_and_a_part_whose_scripts_name_it() -> None:
    parts = {part.name for part in PARTS}
    for name, bar in gpu_bars.gpu_bars().items():
        assert len(bar.keys() & {"floor", "ceiling"}) == 1, name
        assert bar["script"] in parts, name
        own = f"{bar['script'].removesuffix('_run')}*.py"
        text = "".join(path.read_text() for path in (ROOT / "benchmarks").glob(own))
        assert name.removeprefix("gpu.") in text, name


def test_a_gpu_figure_is_no_claim_that_needs_a_gpu() -> None:
    declared = tomllib.loads(BARS.read_text())
    assert not declared["bars"].keys() & declared["gpu"].keys()
    assert not any(name.startswith("gpu.") for name in declared["bars"])


def test_every_test_that_needs_a_gpu_is_named() -> None:
    """By file: pytest fails where one that it is to collect can't be imported, as without trl."""
    marked = {path for path in (ROOT / "tests").rglob("test_*.py") if "\n@pytest.mark.gpu\n" in path.read_text()}
    assert {ROOT / name for name in (*gpu.MARKED, *gpu.MARKED_OF_TRAINING)} == marked


def test_the_parts_are_there() -> None:
    scripts = [part.arguments[0] for part in PARTS if part.arguments[0] != "-m"]
    assert all((ROOT / script).exists() for script in scripts)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("gpu.packed_step_vs_trl", 1.6, "bar >= 1.6: kept"),
        ("gpu.packed_step_vs_trl", 1.59, "bar >= 1.6: MISSED"),
        ("gpu.packed_step_memory", 1.0, "bar <= 1: kept"),
        ("gpu.packed_step_memory", 1.01, "bar <= 1: MISSED"),
        ("gpu.packed_step_floor", 0.1, ""),
    ],
)
def test_a_figure_is_held_to_its_bar(name: str, value: float, words: str) -> None:
    assert verdict(name, value) == words


@pytest.mark.parametrize(
    ("code", "limit_s", "status"),
    [("", 60, 0), ("raise SystemExit(3)", 60, 1), ("import time; time.sleep(60)", 0.5, 1)],
)
def test_a_part_that_fails_or_is_stopped_fails_the_call(
    code: str, limit_s: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "PARTS", (Part("only", ("-c", code), limit_s),))
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == status


def test_what_was_not_measured_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    claims = [{"id": "gpu.packed_step_vs_trl", "value": 1.7, "peer": "trl"}]
    write = f"open({str(tmp_path / 'x_cuda.json')!r}, 'w').write({json.dumps({'claims': claims})!r})"
    parts = (
        Part("packed_step_trl", ("-c", write), 60),
        Part("fails", ("-c", "raise SystemExit(3)"), 60),
        Part("lacks", ("-c", ""), 60, needs=("a_package_that_nobody_has",)),
        Part("slow", ("-c", "import time; time.sleep(60)"), 0.5),
    )
    monkeypatch.setattr(gpu, "PARTS", parts)
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 1
    table = capsys.readouterr().out
    assert "FAILED with status 3" in table and "stopped at its limit" in table
    assert "not measured: a_package_that_nobody_has not installed" in table
    assert "gpu.packed_step_vs_trl" in table and "bar >= 1.6: kept" in table
    assert table.count("gpu.packed_step_memory") == 1 and "gpu.tree_attn_floor" not in table
