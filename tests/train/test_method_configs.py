"""Two training steps from every method's configuration: the shipped model, its real problems, engine and verifiers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from laconic.eval.tasks import Problem
from laconic.eval.tasks.load import load_problems, pool_verifiers
from laconic.rewards.pool import VerifierPool
from laconic.train.checks import check_settings
from laconic.train.load_model import load_model
from laconic.train.methods import METHODS
from laconic.train.metrics_log import read_metrics
from laconic.train.run import engine_maker
from laconic.train.settings import load_settings
from laconic.train.trainer import LaconicTrainer

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("steps=2", "rollout.prompts_per_step=4", "save.every=100", "save.rollouts_every=0")
EASIEST = 1
"""Level of the problems: their answers are short, and most of them right."""


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    settings = load_settings(ROOT / "configs/methods/grpo.yaml")
    return [problem for problem in load_problems(settings.task, "train") if problem.level == EASIEST][:64]


@pytest.fixture(scope="module")
def pool(problems: list[Problem]) -> Iterator[VerifierPool]:
    with VerifierPool(verifiers=pool_verifiers(problems)) as pool:
        yield pool


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.id)
def test_two_steps(method, problems, pool, tmp_path):
    settings = load_settings(ROOT / method.config, [*SMALL])
    model, tokenizer = load_model(settings.model, training=True)
    check_settings(settings, model.config.to_dict())
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer = LaconicTrainer(
        settings, model, tokenizer, problems, pool.judge, engine_maker(settings, tokenizer), tmp_path
    )
    trainer.train()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    assert all(math.isfinite(line["loss"]) and line["outcome/accuracy"] > 0 for line in lines)
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=False))
