"""A verifier process that dies in the middle of a run costs nothing; one that never starts ends the run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from laconic.cli import app
from laconic.rewards.pool import VerifierPool
from laconic.train.metrics_log import read_metrics
from laconic.train.trainer import LaconicTrainer

CONFIG = """
model: {model}
steps: 4
task: {{count: 64, verifier: exact}}
rollout: {{prompts_per_step: 4, group_size: 4, max_prompt: 32, max_completion: 8}}
optim: {{lr: 1.0e-3}}
"""
Train = Callable[..., Any]


@pytest.fixture
def train(random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """``train("name=x")``: the outcome of the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(CONFIG.format(model=random_model))
    return lambda *overrides: CliRunner().invoke(app, ["train", "run.yaml", *overrides], prog_name="laconic")


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[VerifierPool]:
    """The pools that runs have started."""
    started: list[VerifierPool] = []

    def start(**options: Any) -> VerifierPool:
        started.append(VerifierPool(**options))
        return started[-1]

    monkeypatch.setattr("laconic.train.run.VerifierPool", start)
    return started


@pytest.mark.parametrize("which", ["the one at work", "all of them"])
def test_workers_killed_between_steps_change_nothing(
    train: Train, pools: list[VerifierPool], monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    assert train("name=alone").exit_code == 0
    killed: list[int] = []
    collect = LaconicTrainer._collect

    def kill_and_collect(trainer: LaconicTrainer) -> Any:
        if trainer.generation == 2:
            for worker in pools[-1]._fleet[: 1 if which == "the one at work" else None]:
                os.kill(worker.process.pid, signal.SIGKILL)
                os.waitid(os.P_PID, worker.process.pid, os.WEXITED | os.WNOWAIT)  # dead, not only told to die
                killed.append(worker.process.pid)
        return collect(trainer)

    monkeypatch.setattr(LaconicTrainer, "_collect", kill_and_collect)
    assert train("name=killed").exit_code == 0
    assert len(killed) == (1 if which == "the one at work" else 2)
    alone, survived = (read_metrics(Path("runs") / name / "metrics.jsonl") for name in ("alone", "killed"))
    for key in ("step", "loss", "outcome/accuracy", "outcome/unreadable"):
        assert [line[key] for line in alone] == [line[key] for line in survived]
    assert all(line["outcome/verifier_failed"] == 0 for line in survived)
    weights = [(Path("runs") / name / "model" / "model.safetensors").read_bytes() for name in ("alone", "killed")]
    assert weights[0] == weights[1]


def test_no_worker_outlives_its_run(train: Train, pools: list[VerifierPool], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(trainer: LaconicTrainer) -> Any:
        workers.extend(worker.process for worker in pools[-1]._fleet)
        raise ZeroDivisionError

    workers: list[Any] = []
    monkeypatch.setattr(LaconicTrainer, "_collect", fail)
    assert isinstance(train("name=failed").exception, ZeroDivisionError)
    assert len(workers) == 2 and all(worker.poll() is not None for worker in workers)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("import os\nos._exit(5)\n", 1, ["3 verifier workers in a row failed to start", "memory_gb"]),
        ("def judge(response, gold):\n    raise OSError('no grammar')\n", 1, ["self-test", "OSError", "no grammar"]),
    ],
    ids=["dies at import", "fails the self-test"],
)
def test_a_verifier_that_cannot_start_ends_the_run_with_a_message(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, status: int, words: list[str]
) -> None:
    pairs = "from laconic.rewards.verdict import Verdict\nKNOWN_PAIRS = (('1', '1', Verdict.RIGHT),)\n"
    (tmp_path / "my_verifier.py").write_text(pairs + body)
    (tmp_path / "mine.jsonl").write_text('{"prompt": "1+1=", "gold": "2"}\n')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    # The settings' own look at the verifier would import the module into this process, and end it.
    monkeypatch.setattr("laconic.train.checks.resolve_verifier", lambda name: None)
    began = time.monotonic()
    answer = train("name=none", "task.file=mine.jsonl", "task.verifier=my_verifier:judge")
    assert answer.exit_code == status and time.monotonic() - began < 60
    assert answer.stderr.startswith("error: ") and all(word in answer.stderr for word in words), answer.stderr
    assert not (Path("runs") / "none" / "metrics.jsonl").exists()
