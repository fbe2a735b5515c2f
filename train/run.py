"""A training run from settings to finished model: what ``laconic train`` and ``python -m laconic.train`` call.

runs/<name>/  config.yaml  environment.json  metrics.jsonl  rollouts/  checkpoints/  model/
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback

from ..eval.tasks.load import load_problems, pool_verifiers, without_unusable
from ..rewards.pool import VerifierPool
from ..rollout.engines import engine_class
from ..rollout.engines.protocol import Engine
from .atomic import write_atomically
from .checkpoint import latest_checkpoint, step_of
from .environment import describe_environment
from .load_model import load_model, sampled_words
from .progress import TrainingProgress
from .rollout_log import drop_rollouts_after
from .run_folder import CONFIG, RunFolder, claim_run_folder
from .settings import Settings, as_dict
from .trainer import Interrupted, LaconicTrainer, StopAtBoundary


def run_training(settings: Settings, run_dir: Path, *, quiet: bool = False) -> Path:
    """Train (or go on training) into ``run_dir``; returns the folder of the finished model.

    The same command continues a run that was stopped or killed. Raises ``ConfigError`` for a folder made by other
    settings and ``RunError`` when the run cannot go on; ``KeyboardInterrupt`` after Ctrl-C, with the state saved.
    """
    with claim_run_folder(run_dir, as_dict(settings)) as folder, _unsettled_until_begun(folder):
        resume_from = latest_checkpoint(folder.checkpoints)
        done = step_of(resume_from) if resume_from else 0
        write_atomically(folder.environment, json.dumps(describe_environment(), indent=1).encode())
        drop_rollouts_after(folder.rollouts, done)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        model, tokenizer = load_model(settings.model, training=True)
        problems = load_problems(settings.task, "train")
        with VerifierPool(verifiers=pool_verifiers(problems)) as pool:
            problems = without_unusable(problems, pool)
            progress = TrainingProgress(settings, quiet=quiet)
            trainer = LaconicTrainer(
                settings, model, tokenizer, problems, pool.judge, engine_maker(settings, tokenizer), run_dir,
                on_tokens=progress.on_tokens,
            )  # fmt: skip
            trainer.metrics_log.drop_after(done)
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(progress)
            trainer.add_callback(StopAtBoundary(trainer))
            with _stop_on_interrupt(trainer):
                try:
                    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
                except Interrupted:
                    trainer.save_at_boundary()
            if trainer.stop_requested:
                raise KeyboardInterrupt(
                    f"stopped and saved after step {trainer.generation} of {settings.steps}; "
                    "start the same command again to go on"
                )
            return trainer.export(run_dir / "model")


def engine_maker(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> Callable[[PreTrainedModel], Engine]:
    """How the trainer gets its engine, once it has its model."""
    rollout = settings.rollout
    return lambda model: engine_class(rollout.engine)(
        model,
        [tokenizer.eos_token_id],
        max_live=rollout.max_live,
        max_context=rollout.max_prompt + rollout.max_completion,
        allowed_vocab=sampled_words(model, tokenizer),
    )


@contextmanager
def _unsettled_until_begun(folder: RunFolder) -> Iterator[None]:
    """A run that fails before its first step leaves no settings behind, so that they can be mended under its name."""
    try:
        yield
    except Exception:
        if not any(path.exists() for path in (folder.checkpoints, folder.metrics, folder.rollouts)):
            (folder.path / CONFIG).unlink()
        raise


@contextmanager
def _stop_on_interrupt(trainer: LaconicTrainer) -> Iterator[None]:
    """First Ctrl-C: stop at the next safe point and save. Second: at once, without saving."""

    def ask(_signal: int, _frame: Any) -> None:
        if trainer.stop_requested:
            raise KeyboardInterrupt("stopped at once; the last checkpoint stands")
        trainer.stop_requested = True
        print("\nstopping: saving the run at the next safe point (Ctrl-C again stops at once) ...", flush=True)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
