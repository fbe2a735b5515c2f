"""What is not a finished run is not pushed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from laconic.errors import ConfigError, DataError
from laconic.train.hub.push import push_run
from laconic.train.hub.trained_run import read_run


@pytest.fixture
def run(plain_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(plain_run, tmp_path / "brief")


@pytest.fixture
def lora(adapter_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(adapter_run, tmp_path / "lora")


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_whole_model_and_an_adapter_are_told_apart(run: Path, lora: Path) -> None:
    assert read_run(run).adapter is None and read_run(run).steps == 4
    assert read_run(lora).adapter["r"] == 4 and read_run(lora).public_base == "tiny-thinker"


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no training run: it has no config.yaml"):
        read_run(tmp_path)


def test_a_run_that_is_not_finished_is_refused(run: Path) -> None:
    replace(run / "config.yaml", "steps: 4", "steps: 9")
    with pytest.raises(DataError, match="is at step 4 of 9; go on with laconic train"):
        read_run(run)


def test_a_run_without_its_model_is_refused(run: Path) -> None:
    shutil.rmtree(run / "model")
    with pytest.raises(DataError, match="no finished model yet.*go on with laconic train"):
        read_run(run)


def test_a_model_of_an_earlier_stage_is_refused(run: Path) -> None:
    weights = run / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(DataError, match="model.safetensors is not what step 4 left"):
        read_run(run)


def test_a_run_whose_checkpoints_were_deleted_can_still_be_pushed(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    assert read_run(run).steps == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [("adapter_model.safetensors", "no adapter_model.safetensors"), ("tokenizer.json", "has no tokenizer")],
)
def test_an_adapter_with_a_part_missing_is_refused(lora: Path, name: str, words: str) -> None:
    (lora / "model" / name).unlink()
    with pytest.raises(DataError, match=words):
        read_run(lora)


def test_an_adapter_for_another_base_is_refused(lora: Path) -> None:
    replace(lora / "config.yaml", "model: tiny-thinker", "model: some/base")
    config = lora / "model/adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "some/other"}))
    with pytest.raises(DataError, match="is for the base 'some/other', but the run's settings name 'some/base'"):
        read_run(lora)


def test_an_adapter_whose_base_is_a_folder_needs_merging(lora: Path, random_model: Path) -> None:
    replace(lora / "config.yaml", "model: tiny-thinker", f"model: {random_model}")
    with pytest.raises(ConfigError, match="which nobody else has; push it with --merged"):
        push_run(lora, "brief", dry_run=True, quiet=True)


def test_a_whole_model_cannot_be_merged(run: Path) -> None:
    with pytest.raises(ConfigError, match="is a whole model; leave --merged out"):
        push_run(run, "brief", merge=True, dry_run=True, quiet=True)
