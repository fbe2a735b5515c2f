"""environment.json: enough to explain a result, nothing private."""

from __future__ import annotations

import getpass
import json
import platform
from pathlib import Path

import pytest
import torch

from laconic.train import environment
from laconic.train.environment import describe_environment


def test_versions_and_machine_are_described_in_plain_json() -> None:
    described = json.loads(json.dumps(describe_environment()))
    assert described["versions"]["torch"] == torch.__version__
    assert described["python"] == platform.python_version()
    assert described["cpu"]["cores"] >= described["cpu"]["usable_cores"] >= 1
    assert described["threads"]["torch"] == torch.get_num_threads()
    assert described["memory_gb"] > 0.1
    assert len(described["gpus"]) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)


def test_nothing_of_the_process_s_variables_host_or_folders_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_value")
    text = json.dumps(describe_environment())
    for private in ("hf_secret_value", str(Path.cwd()), str(Path.home()) + "/", f'"{platform.node()}"'):
        assert private not in text
    assert f'"{getpass.getuser()}"' not in text


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path) -> None:
    assert environment._commit(tmp_path) is None
