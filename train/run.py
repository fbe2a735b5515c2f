"""A training run from settings to finished model: what ``laconic train`` and ``python -m laconic.train`` call.

runs/<name>/  config.yaml  environment.json  metrics.jsonl  rollouts/  checkpoints/  model/  summary.json
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from ..atomic import abandoned, write_atomically
from ..eval.tasks.load import load_problems, pool_verifiers, without_unusable
from ..rewards.pool import VerifierPool
from ..rollout.engines import engine_class
from ..rollout.engines.protocol import Engine
from .checkpoint import latest_checkpoint, step_of
from .environment import describe_environment
from .interrupt import Interrupted, StopAtBoundary, stop_on_interrupt
from .load_model import load_model, sampled_words
from .metrics_log import read_metrics
from .progress import TrainingProgress
from .ranks import Ranks, local_ranks
from .rollout_log import drop_rollouts_after
from .run_folder import CONFIG, RunFolder, claim_run_folder
from .saving import check_layout, export
from .settings import Settings, as_dict
from .token_budget import StopAfterTokens, decoded_tokens
from .trainer import LaconicTrainer


def run_training(settings: Settings, run_dir: Path, *, quiet: bool = False) -> Path:
    """Train (or go on training) into ``run_dir``; returns the folder of the finished model.

    The same command continues a run that was stopped or killed. Raises ``ConfigError`` for a folder made by other
    settings and ``RunError`` when the run cannot go on; ``KeyboardInterrupt`` after Ctrl-C, with the state saved.
    """
    ranks = Ranks.join()
    with ranks.on_first(lambda: claim_run_folder(run_dir, as_dict(settings))) as folder, _unsettled(folder, ranks):
        resume_from = ranks.on_first(lambda: _take_up(folder))
        if settings.threads:
            torch.set_num_threads(max(1, settings.threads // local_ranks()))
        model, tokenizer = load_model(settings.model, training=True, dtype=settings.adapter.dtype)
        problems = load_problems(settings.task, "train")
        with VerifierPool(verifiers=pool_verifiers(problems)) as pool:
            problems = without_unusable(problems, pool)
            progress = TrainingProgress(settings, quiet=quiet)
            trainer = LaconicTrainer(
                settings, model, tokenizer, problems, pool.judge, engine_maker(settings, tokenizer), run_dir,
                on_tokens=progress.on_tokens, ranks=ranks,
            )  # fmt: skip
            if trainer.metrics_log is not None:
                trainer.metrics_log.drop_after(step_of(resume_from) if resume_from else 0)
            if resume_from:
                check_layout(trainer, resume_from)
            if settings.tokens:
                spent = ranks.on_first(lambda: decoded_tokens(folder.metrics))
                trainer.add_callback(StopAfterTokens(settings.tokens, spent))
                if resume_from and spent >= settings.tokens:  # it has ended already
                    trainer.args.max_steps = step_of(resume_from) * trainer.updates_per_generation
            trainer.remove_callback(PrinterCallback)
            for callback in (progress, StopAtBoundary(trainer), NoteEnvironment(trainer, folder)):
                trainer.add_callback(callback)
            with stop_on_interrupt(trainer):
                try:
                    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
                except Interrupted:
                    trainer.save_at_boundary()
            if trainer.stop_requested:
                raise KeyboardInterrupt(
                    f"stopped and saved after step {trainer.generation} of {settings.steps}; "
                    "start the same command again to go on"
                )
            finished = export(trainer, run_dir / "model")
            if ranks.first:
                _write_summary(folder, trainer.generation)
            return finished


class NoteEnvironment(TrainerCallback):
    """Writes ``environment.json`` when all is set up: launchers may start less than they were asked for."""

    def __init__(self, trainer: LaconicTrainer, folder: RunFolder) -> None:
        self.trainer, self.folder = trainer, folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.trainer.ranks.first:
            ranks = {"count": self.trainer.ranks.count, "wrapper": type(self.trainer.model_wrapped).__name__}
            _write_environment(self.folder, {"ranks": ranks})


def _take_up(folder: RunFolder) -> Path | None:
    """The checkpoint to go on from, and nothing in the folder that is of later steps."""
    for path in abandoned(folder.path):  # a finished model half written
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    _write_environment(folder)
    resume_from = latest_checkpoint(folder.checkpoints)
    drop_rollouts_after(folder.rollouts, step_of(resume_from) if resume_from else 0)
    return resume_from


def _write_environment(folder: RunFolder, more: Mapping[str, Any] | None = None) -> None:
    write_atomically(folder.environment, json.dumps({**describe_environment(), **(more or {})}, indent=1).encode())


def _write_summary(folder: RunFolder, steps: int) -> None:
    """``summary.json``: what a finished run came to. ``seconds`` are those of its steps, of all its processes."""
    lines = read_metrics(folder.metrics)
    seconds = sum(value for line in lines for name, value in line.items() if name.startswith("seconds/"))
    last = lines[-1] if lines else {}
    summary = {"steps": steps, "seconds": seconds, "metrics": last, "model": str(folder.path / "model")}
    write_atomically(folder.path / "summary.json", json.dumps(summary, indent=1).encode())


def engine_maker(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> Callable[[PreTrainedModel], Engine]:
    """How the trainer gets its engine, once it has its model."""
    rollout = settings.rollout
    own: dict[str, Any] = {} if rollout.kv_gb is None else {"kv_bytes": int(rollout.kv_gb * 2**30)}
    if rollout.engine == "vllm_server":
        own = {"address": rollout.server, "timeout": rollout.server_timeout}
    return lambda model: engine_class(rollout.engine)(
        model,
        [tokenizer.eos_token_id],
        **own,
        max_live=rollout.max_live,
        max_context=rollout.longest_context,
        allowed_vocab=sampled_words(model, tokenizer),
    )


@contextmanager
def _unsettled(folder: RunFolder, ranks: Ranks) -> Iterator[None]:
    """A run that fails before its first step leaves no settings behind, so that they can be mended under its name."""
    try:
        yield
    except Exception:
        begun = any(path.exists() for path in (folder.checkpoints, folder.metrics, folder.rollouts))
        if ranks.first and not begun:
            (folder.path / CONFIG).unlink()
        raise
