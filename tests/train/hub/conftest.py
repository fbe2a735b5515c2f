"""A Hub on this machine and runs to push to it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

from laconic.train.checkpoint import save_checkpoint
from laconic.train.settings import load_settings, to_yaml

EVAL = {"problems": 12, "k": 2, "max_completion": 40}


def _module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


hub_server = _module("hub_server")


@pytest.fixture
def fault() -> type:
    """A planned failure of the mock Hub."""
    return hub_server.Fault


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a folder of its own: a push also looks at the evaluations in ``runs/eval`` of the current one."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The mock Hub, as HF_ENDPOINT, with alice's token and an empty cache.

    huggingface_hub reads its environment once, at import, so its constants are set instead; the command line's test
    sets the environment of a new process.
    """
    with hub_server.Hub() as server:
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.url)  # of the functions without an HfApi
        monkeypatch.setenv("HF_TOKEN", "hf_alice")
        # The pauses between huggingface_hub's own five retries.
        monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda _seconds: None))
        huggingface_hub.close_session()
        yield server
        assert server.unknown == []


@pytest.fixture
def laconic(hub: Any, tmp_path: Path) -> Callable[..., Any]:
    """``laconic("home", "eval", "alice/brief")``: what a process whose cache is in that folder prints as JSON."""

    def run(home: str, *arguments: str) -> Any:
        known = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_alice"}
        answer = subprocess.run(
            [sys.executable, "-m", "laconic", *arguments, "--json"],
            capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **known, "HF_HOME": str(tmp_path / home)},
        )  # fmt: skip
        assert answer.returncode == 0, answer.stderr[-3000:]
        return json.loads(answer.stdout)

    return run


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``make_run(model_folder, model="tiny-thinker", steps=4)``: a finished run whose model is a copy of a folder."""

    def make(model: Path, *overrides: str) -> Path:
        folder = tmp_path_factory.mktemp("runs") / "brief"
        settings = load_settings("configs/quickstart.yaml", ["name=brief", "steps=4", *overrides])
        shutil.copytree(model, folder / "model")
        (folder / "model" / "training_args.bin").write_bytes(b"a pickle")
        (folder / "config.yaml").write_text(to_yaml(settings))
        lines = [{"step": step, "seconds/rollout": 40.0, "seconds/update": 20.5} for step in range(1, 5)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        machine = {"gpus": [], "cpu": {"model": "a processor", "cores": 2}}
        (folder / "environment.json").write_text(json.dumps(machine))
        copy = lambda to: shutil.copytree(folder / "model", to, dirs_exist_ok=True)  # noqa: E731
        save_checkpoint(folder / "checkpoints", 4, copy, keep=1)
        return folder

    return make


@pytest.fixture(scope="session")
def plain_run(make_run: Callable[..., Path], random_model: Path) -> Path:
    """A finished run of a whole model that nobody has evaluated."""
    return make_run(random_model)


@pytest.fixture(scope="session")
def evaluated_run(make_run: Callable[..., Path], random_model: Path) -> Path:
    """The same with evaluations of itself and of its base, a copy of the tiny thinker in a folder."""
    from laconic.train.evaluation import evaluate_model

    folder = make_run(random_model)
    for name, model in (("evaluation", str(folder)), ("evaluation-base", "tiny-thinker")):
        evaluate_model(model, options=EVAL, out=folder / name, quiet=True)
    return folder


@pytest.fixture(scope="session")
def make_adapter(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``make_adapter(base)``: folder of a random LoRA adapter as peft saves it, beside the base's tokenizer."""

    def make(base: str) -> Path:
        import torch
        from peft import LoraConfig, get_peft_model

        from laconic.train.load_model import load_model

        model, tokenizer = load_model(base, training=True)
        torch.manual_seed(0)
        lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        folder = tmp_path_factory.mktemp("adapter")
        get_peft_model(model, lora).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def adapter_run(make_run: Callable[..., Path], make_adapter: Callable[[str], Path]) -> Path:
    """A finished run of a LoRA adapter for the tiny thinker."""
    return make_run(make_adapter("tiny-thinker"))
