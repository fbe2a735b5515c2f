"""``laconic cost``: worked numbers of Qwen2.5-1.5B on an H100, and what cannot be priced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from laconic.cli import app
from laconic.errors import ConfigError, DataError
from laconic.train.cost_command import cost_of


def test_worked_numbers_of_a_known_model() -> None:
    priced = cost_of("Qwen/Qwen2.5-1.5B", 200, 4000)
    assert priced["parameters"] == 1_543_714_304 and priced["kv_bytes_per_token"] == 28_672
    assert priced["flops"]["prefill"] + priced["flops"]["decode"] == 14_386_974_130_176
    assert priced["kv_read_bytes"] == 252_250_521_600 and priced["kv_held_bytes"] == 120_393_728
    assert priced["latency_s"] == pytest.approx(3.761782, rel=1e-6)
    assert priced["batches"]["64"]["gpu_s"] == pytest.approx(0.1334192, rel=1e-6)
    assert priced["most_at_a_time"] == 572 and priced["batches"]["64"]["fits"]


def test_a_step_takes_what_the_roofline_says() -> None:
    step = cost_of("Qwen/Qwen2.5-1.5B", 24, 2000, (64,))["batches"]["64"]
    assert step["step_s"] == pytest.approx(1482.530e-6, rel=1e-6)
    assert step["tokens_per_s"] == pytest.approx(43_169.4, rel=1e-5)


def test_folders_files_and_names_are_priced_alike(tmp_path: Path) -> None:
    packaged = Path(__file__).parents[2] / "train/thinker/weights"
    prices = [cost_of(str(where)) for where in ("tiny-thinker", packaged, packaged / "config.json")]
    assert len({json.dumps({**price, "model": ""}) for price in prices}) == 1


def test_the_command_prints_a_table_or_json() -> None:
    shown = CliRunner().invoke(app, ["cost", "Qwen/Qwen2.5-1.5B", "--batch", "64", "--batch", "1000"])
    assert shown.exit_code == 0 and "1,543,714,304 parameters" in shown.stdout and "no, 572 do" in shown.stdout
    scripted = CliRunner().invoke(app, ["cost", "tiny-thinker", "--json"])
    assert list(json.loads(scripted.stdout)["batches"]) == ["1", "64"]


def test_what_cannot_be_priced_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--completion is 0 but must be at least 1"):
        cost_of("tiny-thinker", completion=0)
    with pytest.raises(ConfigError, match="--batch is -1"):
        cost_of("tiny-thinker", batches=(-1,))
    with pytest.raises(ConfigError, match="unknown hardware profile 'abacus'"):
        cost_of("tiny-thinker", profile="abacus")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set"):
        cost_of("nobody/nothing")
