"""Two processes under ``accelerate launch`` do what one does: the same rollouts, loss, gradients and metrics.

The shaping and the credit look at the generation of all ranks, and the shaping remembers the best accuracy so far.

AdamW with an epsilon of 1 moves every weight by about the learning rate times its gradient, so weights after an update
compare gradients; with the usual epsilon they would compare signs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from laconic.train.metrics_log import read_metrics

ROOT = Path(__file__).resolve().parents[2]
LR = 0.1
SETTINGS = (
    str(ROOT / "configs" / "methods" / "dot.yaml"),
    "name=run",
    "steps=2",
    "threads=1",
    "rollout.prompts_per_step=4",
    "rollout.group_size=4",
    "rollout.max_completion=160",
    "truncation.alpha=0.5",
    "reward.shaping={name: short_rl, tolerance: 5, accuracy_tolerance: 1.0}",
    "credit.name=reinforce_pp",
    "objective.kl=0.01",
    f"optim.lr={LR}",
    "optim.micro_batch_tokens=1000",
    "optim.max_grad_norm=0.05",
    "trl.adam_epsilon=1.0",
    "save.every=1",
    "save.keep=5",
)
WRAPPERS = {"cpu-2": "DistributedDataParallel", "zero2-cpu-2": "DeepSpeedEngine"}
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None,
    reason="ZeRO-2 is not tested: deepspeed is not installed; pip install -c constraints.txt deepspeed, or make test",
)
launches = pytest.mark.parametrize(
    "launched", ["cpu-2", pytest.param("zero2-cpu-2", marks=needs_deepspeed)], indirect=True
)


def run(folder: Path, config: str | None, *overrides: str) -> Path:
    """Train in ``folder``, with one rank or under a launcher; returns the run's folder."""
    launcher = [sys.executable, "-m"]
    if config is not None:
        file = ROOT / "configs" / "accelerate" / f"{config}.yaml"
        launcher += ["accelerate.commands.launch", "--config_file", str(file), "--main_process_port", "0", "-m"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE_")}
    answer = subprocess.run(
        [*launcher, "laconic.train", *SETTINGS, *overrides],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[:6000]
    return folder / "runs" / "run"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("alone"), None)


@pytest.fixture(scope="module")
def launched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, run(tmp_path_factory.mktemp(request.param), request.param)


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:06d}" / "model.safetensors")


@launches
def test_two_ranks_train_as_one_does(alone: Path, launched: tuple[str, Path]) -> None:
    config, both = launched
    ranks = json.loads((both / "environment.json").read_text())["ranks"]
    assert ranks == {"count": 2, "wrapper": WRAPPERS[config]}
    one, two = (read_metrics(path / "metrics.jsonl")[0] for path in (alone, both))
    assert one["groups/with_signal"] >= 2 and one["grad_norm"] > 0.06, "there is something to learn, and to clip"
    assert set(one) == set(two)
    for key in set(one) - {"loss", "grad_norm"}:
        # Engine and trainer differ by rounding only, and that depends on which rows share a pack.
        if not key.startswith(("seconds/", "policy/", "mismatch/")):
            assert one[key] == two[key], key
    for key in ("loss", "grad_norm", "policy/entropy", "policy/ratio_max"):
        assert one[key] == pytest.approx(two[key], rel=1e-5, abs=1e-7), key
    before = load_file(ROOT / "train" / "thinker" / "weights" / "model.safetensors")
    after, also = weights(alone, 1), weights(both, 1)
    assert after.keys() >= before.keys() <= also.keys(), "DeepSpeed may add the alias of the tied head"
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    apart = max(float((after[name] - also[name]).abs().max()) for name in before)
    assert moved > 1e-4 and apart < LR * 1e-5, (moved, apart)


@launches
def test_two_ranks_stopped_after_a_step_end_as_if_they_had_not_been(launched: tuple[str, Path], tmp_path: Path) -> None:
    config, both = launched
    shutil.copytree(both, tmp_path / "runs" / "run")
    shutil.rmtree(tmp_path / "runs" / "run" / "model")
    shutil.rmtree(tmp_path / "runs" / "run" / "checkpoints" / "step-000002")
    again = run(tmp_path, config)
    keys = ("step", "loss", "grad_norm", "prompt_ids_hash", "tokens/decoded")
    lines = [[[line[key] for key in keys] for line in read_metrics(path / "metrics.jsonl")] for path in (both, again)]
    assert lines[0] == lines[1] and len(lines[0]) == 2
    finished, resumed = (load_file(path / "model" / "model.safetensors") for path in (both, again))
    assert all(torch.equal(finished[name], resumed[name]) for name in finished)
