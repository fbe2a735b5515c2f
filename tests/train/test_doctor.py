"""The doctor finds what it looks for, and says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from laconic.train import doctor
from laconic.train.doctor import TESTED, check_agreement, check_version, examine, largest_difference

ROOT = Path(__file__).resolve().parents[2]


def random_model(tied: bool) -> Qwen2ForCausalLM:
    torch.manual_seed(3)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    config = Qwen2Config(
        **sizes, vocab_size=64, intermediate_size=64, max_position_embeddings=128, tie_word_embeddings=tied
    )
    return Qwen2ForCausalLM(config).eval()


def test_the_tested_versions_are_those_of_the_constraints_file():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert {name: pinned[name] for name in TESTED} == TESTED


@pytest.mark.parametrize("tied", [True, False])
def test_engine_and_trainer_agree_on_log_probs(tied):
    check = check_agreement("x", random_model(tied))
    assert check.passed and "limit 1e-04" in check.detail


def test_a_disagreement_of_engine_and_trainer_is_found(monkeypatch):
    model = random_model(tied=True)
    difference, tokens = largest_difference(model)
    assert difference < 1e-4 and tokens > 100
    monkeypatch.setattr(doctor, "AGREEMENT", difference / 2)
    check = check_agreement("x", model)
    assert not check.passed and "transformers" in check.detail


def test_a_package_that_is_missing_or_too_old_fails_with_the_command_that_mends_it(monkeypatch):
    monkeypatch.setitem(TESTED, "no-such-package", "1.0")
    assert check_version("no-such-package") == doctor.Check(
        "no-such-package", False, "not installed; pip install no-such-package==1.0"
    )
    monkeypatch.setattr(doctor, "version", lambda name: "0.1")
    monkeypatch.setattr(doctor, "requires", lambda name: ["trl<1.17,>=1.16"])
    failed = check_version("trl")
    assert not failed.passed and "pip install trl==1.16.0" in failed.detail


def test_a_check_that_breaks_is_a_failed_check_and_the_others_still_run(monkeypatch):
    def broken() -> doctor.Check:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(doctor, "check_disk", broken)
    checks = {check.name: check for check in examine()}
    assert (checks["disk"].passed, checks["disk"].detail) == (False, "the disk is gone")
    assert checks["verifiers"].passed and checks["memory"].detail
