"""Ctrl-C: stop at the next safe point and save, so that the same command goes on.

During rollouts nothing is trained that would be lost: the run goes back to the start of the generation. During an
update it ends at the end of the generation. Ranks agree: when one is asked to stop, all of them stop at the same point.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    from .trainer import LaconicTrainer


class Interrupted(Exception):
    """Ctrl-C arrived during rollouts: nothing trained is lost by going back to the generation's start."""


class StopAtBoundary(TrainerCallback):
    """After Ctrl-C during an update: save and stop at the end of the generation."""

    def __init__(self, trainer: LaconicTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.trainer.updates_per_generation:
            return
        self.trainer.stop_requested = self.trainer.ranks.any(self.trainer.stop_requested)
        if self.trainer.stop_requested:
            control.should_save = control.should_training_stop = True


@contextmanager
def stop_on_interrupt(trainer: LaconicTrainer) -> Iterator[None]:
    """First Ctrl-C: stop at the next safe point and save. Second: at once, without saving.

    A launcher passes Ctrl-C on to ranks that the terminal has already told, so a rank among several takes a second one
    for the first; the launcher kills what has not ended within half a minute.
    """

    def ask(_signal: int, _frame: Any) -> None:
        if trainer.stop_requested:
            if trainer.ranks.count > 1:
                return
            raise KeyboardInterrupt("stopped at once; the last checkpoint stands")
        trainer.stop_requested = True
        if trainer.ranks.first:
            # Not by print, which a handler may find half way through a print of the run and must not enter again.
            os.write(1, b"\nstopping: saving the run at the next safe point (Ctrl-C again stops at once) ...\n")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
