"""A Hub id that cannot be had is one sentence with what to do instead, before anything is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from laconic.cli import app
from laconic.errors import DataError
from laconic.train.adapter import check_reachable
from laconic.train.hub.push import push_run
from laconic.train.load_model import load_model

UNREACHABLE = "http://127.0.0.1:9"


def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", UNREACHABLE)
    template = UNREACHABLE + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.mark.parametrize("command", [["eval", "some/model"], ["eval", "tiny-thinker", "--adapter", "some/adapter"]])
def test_offline_the_local_alternatives_are_named_and_nothing_is_loaded(
    hub: Any, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setattr("laconic.train.load_model.load_model", lambda *_, **__: pytest.fail("something was loaded"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 1 and answer.stderr.startswith(f"error: there is no folder {command[-1]!r} here")
    assert "HF_HUB_OFFLINE is set" in answer.stderr and "give a folder that holds the model" in answer.stderr
    assert answer.stderr.count("\n") == 1 and hub.requests == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    unreachable(monkeypatch)
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 1 and answer.stderr.startswith(f"error: there is no folder {command[-1]!r} here")
    assert UNREACHABLE in answer.stderr and "refused" in answer.stderr and "--local-dir FOLDER" in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_training_of_a_hub_id_while_offline_leaves_no_run_behind(
    hub: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    answer = CliRunner().invoke(app, ["train", "configs/methods/grpo.yaml", "model=some/model"])
    assert answer.exit_code == 1 and "HF_HUB_OFFLINE is set" in answer.stderr
    assert not (tmp_path / "runs").exists()


def test_what_was_fetched_once_is_there_without_the_hub(
    hub: Any, monkeypatch: pytest.MonkeyPatch, plain_run: Path, adapter_run: Path
) -> None:
    push_run(plain_run, "alice/brief", quiet=True)
    push_run(adapter_run, "alice/adapter", quiet=True)
    for repo in ("alice/brief", "alice/adapter"):
        load_model(repo)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for repo in ("alice/brief", "alice/adapter"):
        check_reachable(repo)
        load_model(repo)


def test_an_unknown_id_and_a_repository_without_a_model_are_refused(hub: Any, plain_run: Path) -> None:
    with pytest.raises(DataError, match="'alice/nothing' here, and http.*knows no model of that name"):
        check_reachable("alice/nothing")
    push_run(plain_run, "alice/brief", quiet=True)
    hub.files("alice/brief").pop("config.json")
    with pytest.raises(DataError, match=r"neither config.json nor adapter_config.json"):
        check_reachable("alice/brief")


def test_weights_that_do_not_arrive_are_one_sentence(hub: Any, fault: type, plain_run: Path) -> None:
    push_run(plain_run, "alice/brief", quiet=True)
    hub.faults.append(fault("GET", "/lfs/", 500))
    with pytest.raises(DataError, match=r"did not give all files of a model of that name \(.*type the same command"):
        load_model("alice/brief")


def test_the_base_of_an_adapter_must_be_reachable_too(hub: Any, make_run: Any, make_adapter: Any) -> None:
    folder = make_adapter("tiny-thinker")
    (folder / "laconic_adapter.json").write_text('{"base": "alice/base"}')
    run = make_run(folder, "model=alice/base")
    push_run(run, "alice/adapter", quiet=True)
    for model in ("alice/adapter", str(run), str(run / "model")):
        with pytest.raises(DataError, match="'alice/base' here, and .*knows no model"):
            check_reachable(model)
    check_reachable("tiny-thinker", "alice/adapter")


def test_folders_and_packaged_models_ask_nobody(plain_run: Path) -> None:
    code = (
        "import sys, laconic.train.adapter as adapter\n"
        f"for one in ('tiny-thinker', {str(plain_run / 'model')!r}, {str(plain_run)!r}): adapter.check_reachable(one)\n"
        "print(sorted({'torch', 'huggingface_hub', 'peft'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"
