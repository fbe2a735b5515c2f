"""What a user can get wrong, or a machine do to a run, by way of ``laconic train``: a message that says what to do."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from laconic.cli import app
from laconic.rewards.pool import VerifierPool
from laconic.rewards.verdict import Item, Judgement
from laconic.rewards.verifiers import judge_item
from laconic.train.checkpoint import latest_checkpoint, step_of
from laconic.train.metrics_log import read_metrics
from laconic.train.model_files import check_model_folder

Train = Callable[..., Any]
RUN = Path("runs") / "bad"
CONFIG = """
model: {model}
name: bad
steps: 2
task: {{file: problems.jsonl, verifier: "number"}}
rollout: {{prompts_per_step: 2, group_size: 2, max_prompt: 8, max_completion: 8}}
optim: {{lr: 1.0e-3}}
save: {{every: 1, keep: 3}}
"""
PROBLEMS = [{"prompt": f"{number}+{number}=", "gold": str(2 * number)} for number in range(8)]


@pytest.fixture
def train(random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """``train("key=value", problems=[...])``: the outcome of the command, in an empty folder that stays for the test.

    Answers are judged in this process, unless the test starts a real pool.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("laconic.train.run.VerifierPool", InProcess)
    (tmp_path / "bad.yaml").write_text(CONFIG.format(model=random_model))

    def run(*overrides: str, problems: Sequence[dict[str, Any]] = PROBLEMS) -> Any:
        (tmp_path / "problems.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
        return CliRunner().invoke(app, ["train", "bad.yaml", *overrides], prog_name="laconic")

    return run


class InProcess:
    """A pool without processes."""

    def __init__(self, verifiers: Sequence[str]) -> None:
        self.verifiers = verifiers

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None: ...

    def judge(self, items: Sequence[Item]) -> list[Judgement]:
        return [judge_item(item) for item in items]


def refused(answer: Any, status: int, *words: str) -> str:
    """The message of a run that ended with ``status``; all of ``words`` are in it and no traceback."""
    assert answer.exit_code == status, answer.output
    assert answer.stderr.startswith("error: ") and "Traceback" not in answer.output
    for word in words:
        assert word in answer.stderr, (word, answer.stderr)
    return str(answer.stderr)


@pytest.mark.parametrize(
    ("problems", "words"),
    [
        ([{"question": "1=", "gold": "1"}], ["has neither a column 'prompt'", "'question'", "task.columns.prompt="]),
        ([{"prompt": "1=", "answer": "1"}], ["has no column 'gold'", "'answer'", "task.columns.gold="]),
        ([*PROBLEMS, {"prompt": "1=", "gold": ""}], ["row 9", "empty", "remove the row"]),
        ([], ["holds no rows", "at least one problem"]),
        ([*PROBLEMS, {"prompt": "what?", "gold": "5"}], ["problems/9", "tokenizer cannot encode", "characters"]),
        ([*PROBLEMS, {"prompt": "1+2+3+4+5=", "gold": "5"}], ["problems/9", "10 tokens", "rollout.max_prompt=10"]),
    ],
    ids=["no prompt column", "no gold column", "empty gold", "no rows", "foreign characters", "long prompt"],
)
def test_unusable_data_stop_the_run_before_it_begins_and_can_be_mended_under_its_name(
    train: Train, problems: list[dict[str, Any]], words: list[str]
) -> None:
    refused(train("steps=1", problems=problems), 1, *words)
    assert not (RUN / "checkpoints").exists() and not (RUN / "metrics.jsonl").exists()
    assert train("steps=1", "task.template=0{prompt}").exit_code == 0, (
        "other settings are welcome as long as nothing began"
    )


def test_a_mapped_column_that_the_data_lack_is_named_beside_those_they_have(train: Train) -> None:
    refused(
        train("task.columns.gold=answer"), 1, "no column 'answer' for 'gold'", "'prompt', 'gold'", "task.columns.gold"
    )


def test_a_context_shorter_than_prompt_and_answer_is_refused_with_the_sum(train: Train) -> None:
    refused(train("rollout.max_completion=60"), 2, "8 + rollout.max_completion 60 = 68", "64 positions", "to 56")
    assert not RUN.exists()


def test_a_folder_of_other_settings_is_refused_and_left_as_it_is(train: Train) -> None:
    assert train("steps=1").exit_code == 0
    before = (RUN / "config.yaml").read_bytes(), (RUN / "metrics.jsonl").read_bytes()
    refused(train("optim.lr=2e-3"), 2, "optim.lr: 0.001 -> 0.002", "name=", "delete")
    assert ((RUN / "config.yaml").read_bytes(), (RUN / "metrics.jsonl").read_bytes()) == before
    assert train("steps=2").exit_code == 0, "more steps are no other settings"


def test_a_half_written_checkpoint_is_passed_over_for_the_one_before(
    train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    assert train("steps=2").exit_code == 0
    whole = read_metrics(RUN / "metrics.jsonl")
    weights = RUN / "checkpoints" / "step-000002" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert train("steps=2").exit_code == 0
    assert "step-000002" in caplog.text and "model.safetensors has 1000 bytes" in caplog.text
    again = read_metrics(RUN / "metrics.jsonl")
    assert [line["step"] for line in again] == [1, 2] and again[1]["loss"] == whole[1]["loss"]
    last = latest_checkpoint(RUN / "checkpoints")
    assert last is not None and step_of(last) == 2


@pytest.mark.parametrize("full_from", [1, 2])
def test_a_full_disk_during_a_save_stops_the_run_and_costs_no_earlier_checkpoint(
    train: Train, monkeypatch: pytest.MonkeyPatch, full_from: int
) -> None:
    import torch

    saves, save = [], torch.save

    def full(state: Any, path: Any, *arguments: Any, **options: Any) -> None:
        if str(path).endswith("optimizer.pt"):
            saves.append(path)
            if len(saves) >= full_from:
                raise OSError(errno.ENOSPC, "No space left on device")
        save(state, path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        message = refused(train("steps=3"), 1, "No space left on device", "Free disk space", "free, ", "needed")
    checkpoints = RUN / "checkpoints"
    last = latest_checkpoint(checkpoints)
    assert (last is None) if full_from == 1 else (last is not None and step_of(last) == 1 and last.name in message)
    assert [path.name for path in checkpoints.iterdir() if path.name.startswith(".")] == []
    assert train("steps=3").exit_code == 0
    assert [line["step"] for line in read_metrics(RUN / "metrics.jsonl")] == [1, 2, 3]


def test_a_full_disk_at_the_very_end_costs_nothing_but_the_export(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    from laconic.train.trainer import LaconicTrainer

    save = LaconicTrainer.save_model

    def full(self: Any, folder: str, *arguments: Any, **options: Any) -> None:
        save(self, folder, *arguments, **options)
        if "checkpoints" not in folder:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LaconicTrainer, "save_model", full)
        refused(train(), 1, "cannot write the finished model", "No space left on device", "same command")
    assert [path.name for path in RUN.iterdir() if "model" in path.name] == []
    assert train().exit_code == 0
    check_model_folder(RUN / "model")
    summary, lines = json.loads((RUN / "summary.json").read_text()), read_metrics(RUN / "metrics.jsonl")
    assert (summary["steps"], summary["metrics"]) == (len(lines), lines[-1])
    assert Path(summary["model"]) == RUN.resolve() / "model"
    assert summary["seconds"] == sum(line[name] for line in lines for name in line if name.startswith("seconds/"))


def test_a_finished_model_that_a_kill_left_half_written_goes_with_the_next_start(train: Train) -> None:
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    left = RUN / f".tmp-model-{killed.pid}"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    assert train("steps=1").exit_code == 0
    assert not left.exists()


def test_weights_that_are_no_numbers_stop_the_run_with_what_to_change(
    train: Train, random_model: Path, tmp_path: Path
) -> None:
    from laconic.train.load_model import load_model

    model, tokenizer = load_model(str(random_model))
    model.model.norm.weight.data[0] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    tokenizer.save_pretrained(tmp_path / "broken")
    answer = train("model=broken")
    refused(answer, 1, "logits are not numbers", "weights are broken", "checkpoint")
    assert latest_checkpoint(RUN / "checkpoints") is None


VERIFIERS = """
import os, time
from laconic.rewards.verdict import Judgement, Verdict

def hangs_at_4(response, gold):
    while gold == "4":
        pass
    return Judgement(Verdict.WRONG)

def dies_at_4(response, gold):
    if gold == "4":
        os._exit(3)
    return Judgement(Verdict.WRONG)

def dies(response, gold):
    os._exit(3)
"""


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Train) -> None:
    """A real pool, with little patience, and verifiers of one's own."""
    (tmp_path / "verifiers_of_mine.py").write_text(VERIFIERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("laconic.train.run.VerifierPool", partial(VerifierPool, deadline=0.5))


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("verifier", ["hangs_at_4", "dies_at_4"])
def test_a_verifier_that_hangs_or_dies_on_an_answer_costs_that_answer_and_is_reported(
    train: Train, verifier: str
) -> None:
    answer = train(f"task.verifier=verifiers_of_mine:{verifier}", "rollout.prompts_per_step=8", "steps=1")
    assert answer.exit_code == 0, answer.output
    (line,) = read_metrics(RUN / "metrics.jsonl")
    # Every problem is met once; truncated answers are not searched, so they can do no harm.
    assert 0 < line["outcome/verifier_failed"] <= 1 / 8
    assert "VERIFIER FAILED" in answer.output


@pytest.mark.usefixtures("pool")
def test_a_verifier_that_dies_on_every_answer_stops_the_run(train: Train) -> None:
    answer = train("task.verifier=verifiers_of_mine:dies", "rollout.prompts_per_step=8", "rollout.group_size=4")
    refused(answer, 1, "the verifier crashed or took too long on 100%", "task.verifier")


@pytest.mark.usefixtures("pool")
def test_a_verifier_that_cannot_be_imported_is_refused(train: Train) -> None:
    refused(train("task.verifier=verifiers_of_mine:missing"), 2, "verifiers_of_mine:missing", "PYTHONPATH")


def test_ctrl_c_saves_and_says_how_to_go_on(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    from laconic.train.progress import TrainingProgress

    calls: list[int] = []

    def interrupt(self: TrainingProgress, decoded: int, finished: int) -> None:
        calls.append(decoded)
        if (RUN / "metrics.jsonl").exists() and len(read_metrics(RUN / "metrics.jsonl")) == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "on_tokens", interrupt)
        answer = train("steps=4", "save.every=100")
    assert answer.exit_code == 130 and calls
    # Rollouts that had no token to go are trained on first.
    last = latest_checkpoint(RUN / "checkpoints")
    assert last is not None and step_of(last) in (2, 3)
    assert f"stopped and saved after step {step_of(last)} of 4" in answer.stderr and "same command" in answer.stderr
    assert signal.getsignal(signal.SIGINT) is before
    assert train("steps=4", "save.every=100").exit_code == 0
    assert [line["step"] for line in read_metrics(RUN / "metrics.jsonl")] == [1, 2, 3, 4]
