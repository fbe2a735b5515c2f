"""What a person sees of a training run: one bar with rates, and the numbers that tell whether it goes well."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback

from .settings import Settings

_SAVINGS = {"tokens/saved": "decoded", "tokens/parallel_saved": "steps", "tokens/kv_saved": "KV"}
"""Metrics of what a driver saves, and the words for them."""


class TrainingProgress(TrainerCallback):
    """A bar on a terminal; on anything else one line every ``lines_every`` generations."""

    lines_every = 10

    def __init__(self, settings: Settings, *, quiet: bool = False) -> None:
        self.steps = settings.steps
        self.updates = settings.optim.updates_per_batch * settings.optim.epochs
        self.console = Console(quiet=quiet, highlight=False)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self.task = self.bar.add_task("training", total=self.steps, state="")
        self.rolling_since: float | None = None
        self.decoded = self.finished = 0
        self.paths: set[str] = set()
        """Ways of training that have been announced: rows, tree."""

    def on_tokens(self, decoded: int, finished: int) -> None:
        """Called by the scheduler while rollouts are under way, with what was added since the last call."""
        now = time.perf_counter()
        if self.rolling_since is None:
            self.rolling_since, self.decoded, self.finished = now, 0, 0
        self.decoded += decoded
        self.finished += finished
        rate = self.decoded / max(now - self.rolling_since, 1e-3)
        self.bar.update(self.task, state=f"rollout {self.finished} groups, {rate:,.0f} tok/s")

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.update(self.task, completed=state.global_step // self.updates)
        self.bar.start()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "length/mean" not in logs:
            return
        self.rolling_since = None
        step = logs["step"]
        line = f"accuracy {logs['outcome/accuracy']:.3f}  tokens {logs['length/mean']:6.1f}  cut {logs['dot/cut']:.1%}"
        line += "".join(f"  {what} -{logs[key]:.0%}" for key, what in _SAVINGS.items() if logs[key] >= 0.005)
        if logs["outcome/verifier_failed"]:
            line += f"  VERIFIER FAILED on {logs['outcome/verifier_failed']:.1%}"
        if logs.get("groups/parked"):
            line += f"  {logs['groups/parked']} parked"
        line += _packing(logs)
        path = logs.get("pack/path", "none")
        if path != "none" and path not in self.paths:
            self.paths.add(path)
            self.console.print(f"training on {path}: {logs['pack/why']}", soft_wrap=True)
        self.bar.update(self.task, completed=step, state=line)
        if not self.console.is_terminal and (step == 1 or step % self.lines_every == 0 or step == self.steps):
            seconds = sum(value for key, value in logs.items() if key.startswith("seconds/"))
            self.console.print(f"step {step:>5}/{self.steps}  {line}  {seconds:.2f} s/step", soft_wrap=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.stop()


def _packing(logs: dict[str, Any]) -> str:
    """How often rows would have computed a token, in the mean, and what packing saved."""
    if logs.get("pack/path") != "tree":
        return ""
    return f"  packed {logs['pack/ratio']:.2f}x, saved {logs['pack/saved_seconds']:.2f} s"
