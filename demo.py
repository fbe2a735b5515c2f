"""``laconic demo``: the main job from beginning to end on a laptop.

    tiny thinker ──> evaluate ──> train to be brief (configs/quickstart.yaml) ──> evaluate ──> compare, report

Everything is the code path that trains and evaluates a large model; only the model and the problems are small.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from .eval.paired import compare_runs
from .eval.report import write_report
from .eval.summary import write_json
from .eval.tables import comparison_table
from .eval.tasks import PROCEDURAL
from .train.evaluation import evaluate_model
from .train.model_files import PACKAGED
from .train.run import run_training
from .train.settings import load_settings, to_yaml

CONFIG = "configs/quickstart.yaml"
PROBLEMS, SAMPLES = 3000, 4
"""Test problems and samples of each: enough to see an accuracy difference of half a point."""
CACHE = Path.home() / ".cache" / "laconic" / "evaluations"
"""The base model's samples are kept here, by the hash of its weights and of the problems."""
MARKERS = 3
"""Tokens of a response besides thought and answer: ``<think>``, ``</think>`` and the end."""


def run_demo(
    out: Path = Path("runs/demo"),
    *,
    from_scratch: bool = False,
    overrides: Sequence[str] = (),
    problems: int = PROBLEMS,
    quiet: bool = False,
) -> dict[str, Any]:
    """Run the demo into ``out``; returns (and writes to ``summary.json``) accuracy, tokens and seconds.

    The same command goes on with a demo that was stopped. ``overrides`` change ``configs/quickstart.yaml``.
    """
    started = time.perf_counter()
    console = Console(quiet=quiet, highlight=False)
    model = str(_from_scratch(out, console) if from_scratch else PACKAGED["tiny-thinker"])
    settings = load_settings(CONFIG, [f"name={out.name}", f"model={model}", *overrides])

    console.rule("1 of 3  how the tiny thinker does now")
    options = {"problems": problems, "k": SAMPLES}
    base = out / "base"
    evaluate_model(model, options=options, out=base, cache=CACHE, name="base", quiet=quiet)

    console.rule(f"2 of 3  training it to be brief: {settings.steps} steps")
    training = time.perf_counter()
    trained_model = run_training(settings, out, quiet=quiet)
    train_seconds = time.perf_counter() - training

    console.rule("3 of 3  how it does after training")
    trained = out / "trained"
    evaluate_model(str(trained_model), options=options, out=trained, name="trained", quiet=quiet)

    comparison = compare_runs(base, trained)
    shortest = one_pass_tokens(problems)
    report = write_report(
        out,
        base=base,
        trained=trained,
        comparison=comparison,
        metrics_jsonl=out / "metrics.jsonl",
        one_pass=shortest,
        meta={
            "title": "A tiny thinker learns to be brief",
            "command": "laconic demo",
            "config": to_yaml(settings),
            "caveats": ["alpha, margin and learning rate are the demo's own, not those of the paper."],
        },
    )
    summary = _summary(comparison, shortest, train_seconds, time.perf_counter() - started)
    write_json(summary, out / "summary.json")
    console.print(comparison_table(comparison))
    console.print(f"report: {report}", soft_wrap=True)
    return summary


def one_pass_tokens(problems: int = PROBLEMS) -> float:
    """Mean tokens of a response that goes through the work once and answers: no correct thought is shorter."""
    tasks = list(PROCEDURAL.values())
    per_task = problems // len(tasks)
    lengths = [
        len(",".join(task.steps(problem.prompt))) + MARKERS + 1
        for task in tasks
        for problem in task.problems("test", 0, per_task)
    ]
    return float(np.mean(lengths))


def _summary(comparison: dict[str, Any], one_pass: float, train_seconds: float, seconds: float) -> dict[str, Any]:
    accuracy, tokens = comparison["overall"]["accuracy"], comparison["overall"]["tokens"]
    return {
        "base": {"accuracy": accuracy["base"], "tokens_mean": tokens["base_mean"]},
        "trained": {"accuracy": accuracy["new"], "tokens_mean": tokens["new_mean"]},
        "delta": {
            "accuracy": accuracy["delta"],
            "accuracy_ci95": accuracy["ci95"],
            "token_ratio": tokens["ratio"],
            "token_ratio_ci95": tokens["ratio_ci95"],
        },
        "one_pass": {"tokens_mean": one_pass, "token_ratio": one_pass / tokens["base_mean"]},
        "seconds": {"total": seconds, "train": train_seconds},
    }


def _from_scratch(out: Path, console: Console) -> Path:
    """Make the tiny thinker anew, as its own script does, unless an earlier call has finished it."""
    from .train.thinker.__main__ import main

    folder = out.parent / f"{out.name}-thinker"
    if not (folder / "tokenizer.json").is_file():  # written last
        console.print(f"making the tiny thinker into {folder}: about half an hour on two cores")
        main(["--out", str(folder)])
    return folder
