"""The ranks of a run: the processes that ``accelerate launch`` started, and the few things they must agree on.

Groups are dealt out whole: of the groups of a generation, numbered over all ranks, rank r of R has r, r + R, r + 2R ...
Numbers name the random numbers of a group (``rollout/noise.py``), so what is sampled does not depend on R. Samplers
draw the same prompts everywhere; weights of the loss count the rollouts and tokens of all ranks. What goes between
ranks here is small: numbers, names, paths. Gradients are the business of DDP or DeepSpeed.

With one rank nothing is sent and no process group exists.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from torch import distributed

from ..errors import RunError

T = TypeVar("T")
PATIENCE = timedelta(hours=2)
"""How long a rank waits for the others, some of which decode the longest answers or hash and write a checkpoint. One
that has died keeps nobody waiting: the launcher ends them all."""
LONGEST_BUILD = 20
"""Minutes. No C++ part of DeepSpeed takes as long to build; the one for the CPU takes about one."""


@dataclass(frozen=True)
class Ranks:
    """How many there are, and which one this process is."""

    count: int = 1
    index: int = 0

    @classmethod
    def join(cls) -> Ranks:
        """Meet the other ranks; waits until all of them are there."""
        if under_deepspeed():  # which builds what it needs for one rank too
            refuse_broken_builds()
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        state = PartialState(cpu=on_cpu_by_accelerate(), backend=backend(), timeout=PATIENCE)
        if state.device.type == "cpu":
            # accelerate calls the CPU of a rank "cpu:0", a place that torch.load does not know.
            torch.serialization.register_package(50, lambda _: None, _on_cpu)
        return cls(distributed.get_world_size(), distributed.get_rank())

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.index == 0

    def mine(self, items: Iterable[T]) -> list[tuple[int, T]]:
        """This rank's share of what all ranks know, with the numbers of its items."""
        return [(number, item) for number, item in enumerate(items) if number % self.count == self.index]

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, by rank; every rank gets them."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return any(self.gather(flag))

    def share(self, value: T) -> T:
        """The first rank's value, on every rank."""
        if self.count == 1:
            return value
        values: list[Any] = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def on_first(self, work: Callable[[], T]) -> T:
        """Let the first rank do ``work``; every rank gets the result, or raises what it raised."""
        result: Any = None
        error: BaseException | None = None
        if self.first:
            try:
                result = work()
            except Exception as raised:
                error = raised
        result, error = self.share((result, error))
        if error is not None:
            raise error
        return result

    def wait(self) -> None:
        """Go on when every rank has come here."""
        self.gather(None)


def _on_cpu(storage: Any, location: str) -> Any:
    return storage if location.startswith("cpu") else None


def on_gpu() -> bool:
    """Whether this run computes on a GPU: there is one, and the launcher was not told to use the CPU."""
    return torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("true", "1")


def on_cpu_by_accelerate() -> bool:
    """Whether accelerate is to insist on the CPU; then it would not look for DeepSpeed, which finds the CPU itself."""
    return not on_gpu() and not under_deepspeed()


def backend() -> str | None:
    """What carries messages; named for DeepSpeed on a CPU only, where accelerate would take each rank to be alone."""
    return "gloo" if under_deepspeed() and not on_gpu() else None


def under_deepspeed() -> bool:
    """Whether the launcher was told to use DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"


def refuse_broken_builds() -> None:
    """Refuse to wait for a build of DeepSpeed's that was killed: torch waits without end while its lock is there."""
    from torch.utils.cpp_extension import get_default_build_root

    for lock in sorted(Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()).glob("**/lock")):
        try:
            minutes = (time.time() - lock.stat().st_mtime) / 60
        except FileNotFoundError:
            continue  # that build has just ended
        if minutes > LONGEST_BUILD:
            raise RunError(
                f"{lock} is {minutes:.0f} minutes old: the build of DeepSpeed's that made it was killed (none takes "
                f"{LONGEST_BUILD} minutes), and every later one would wait for it without end; rm {lock}"
            )


def local_ranks() -> int:
    """Ranks on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
