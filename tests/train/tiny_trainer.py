"""A trainer on a random model of a few thousand parameters, with a judge that finds half of all answers right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from laconic.eval.tasks import Problem
from laconic.rewards.verdict import Item, Judgement, Verdict
from laconic.train.checkpoint import latest_checkpoint
from laconic.train.load_model import load_model
from laconic.train.run import engine_maker
from laconic.train.settings import Settings, load_settings
from laconic.train.trainer import LaconicTrainer

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "methods"
SMALL = (
    "rollout.prompts_per_step=4",
    "rollout.group_size=4",
    "rollout.max_prompt=8",
    "rollout.max_completion=12",
    "optim.lr=1e-2",
    "optim.max_grad_norm=1e9",
    "save.every=100",
    "save.rollouts_every=0",
    "steps=1",
)
PROBLEMS = [Problem(f"p{index}", f"{index % 10}+{index // 10}=", "0", "test") for index in range(30)]
Train = Callable[..., LaconicTrainer]


def even_is_right(items: Sequence[Item]) -> list[Judgement]:
    return [Judgement(Verdict.WRONG if len(item.response) % 2 else Verdict.RIGHT) for item in items]


def settings_of(base: str | Path, config: str = "grpo", *overrides: str) -> Settings:
    """Settings of a small run from ``configs/methods/<config>.yaml``."""
    return load_settings(CONFIGS / f"{config}.yaml", [*SMALL, f"model={base}", *overrides])


def make_trainer(
    base: Path,
    parent: Path,
    config: str = "grpo",
    *overrides: str,
    folder: str = "run",
    judge: Any = even_is_right,
    objective: Any = None,
) -> LaconicTrainer:
    """A trainer of the model ``base`` that writes to ``parent / folder``."""
    settings = settings_of(base, config, *overrides)
    if objective is not None:
        settings = replace(settings, objective=objective)
    model, tokenizer = load_model(settings.model)
    engine = engine_maker(settings, tokenizer)
    return LaconicTrainer(settings, model, tokenizer, PROBLEMS, judge, engine, parent / folder)


def stopped_and_resumed(make: Train, *setup: str, generation: int) -> LaconicTrainer:
    """Stop a run as it begins to collect ``generation``, and train one that goes on from its last checkpoint."""
    stopped = make(*setup, folder="parts")
    collect = stopped._collect

    def interrupted() -> Any:
        if stopped.generation == generation:
            raise KeyboardInterrupt
        return collect()

    stopped._collect = interrupted
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    stopped.metrics_log.close()
    resumed = make(*setup, folder="parts")
    resumed.train(resume_from_checkpoint=str(latest_checkpoint(stopped.run_dir / "checkpoints")))
    return resumed


def weights(trainer: LaconicTrainer) -> dict[str, Tensor]:
    """A copy of what the trainer's model holds now."""
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two models hold the same, bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
