"""Which implementation of a kernel runs: the one that ``LACONIC_KERNELS`` names, else the first that can.

    LACONIC_KERNELS=ref      the slow twin that defines the result
                    sdpa     torch's own operations (on a CPU the default)
                    flex     torch's FlexAttention, compiled
                    triton   our Triton kernels; under TRITON_INTERPRET=1 on a CPU
                    fa       torch's fused attention by parts, merged

An operation offers some of these, and each says why it can't take certain tensors. Which one runs, and why those before
it don't, is logged once. All compute the same result up to rounding. What is forced but can't be loaded is an error;
what is forced but can't take these tensors, or doesn't exist for this operation, falls back and says so. That is a
warning where one was forced or the tensors are on a GPU; on a CPU it is information.

A compiled kernel depends on the GPU, its driver and Triton's version, so before its first use on a machine it is tried
against its slow twin, gradients included (``fails_its_trial``); one that is off, or doesn't compile, is left alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch

from ..errors import ConfigError

log = logging.getLogger(__name__)

VARIABLE = "LACONIC_KERNELS"
Name = Literal["ref", "sdpa", "flex", "triton", "fa"]
_said: set[tuple[str, str, str]] = set()
_trials: dict[Hashable, str | None] = {}


@dataclass(frozen=True)
class Backend:
    """One implementation of an operation."""

    name: Name
    refuses: Callable[..., str | None]
    """From the operation's arguments: why it can't run them, None if it can. Cheap but for a trial once."""
    load: Callable[[], Callable[..., Any]]
    """Imports the implementation and returns it."""
    automatic: bool = True
    """False if it runs only when it is forced, as the slow twins do."""


def forced() -> Name | None:
    """The value of ``LACONIC_KERNELS``; None without one.

    Raises:
        ConfigError: it is none of the known names.
    """
    name = os.environ.get(VARIABLE, "")
    if name == "":
        return None
    if name not in get_args(Name):
        raise ConfigError(
            f"{VARIABLE} is {name!r}, which is no implementation; give one of {', '.join(get_args(Name))}, or unset it"
        )
    return name  # type: ignore[return-value]


def choose(operation: str, backends: Sequence[Backend], *args: Any, **options: Any) -> Backend:
    """The backend that takes these arguments, preferred ones first.

    Raises:
        ConfigError: what is forced is not installed, or nothing takes the arguments.
    """
    wanted = forced()
    named = [backend for backend in backends if backend.name == wanted]
    if wanted == "triton" and named and find_spec("triton") is None:
        raise ConfigError(f"{VARIABLE} is 'triton', but triton is not installed; install it, or unset {VARIABLE}")
    reasons = [f"{wanted}: {operation} has no such implementation"] if wanted and not named else []
    for backend in [*named, *(other for other in backends if other.automatic and other not in named)]:
        reason = backend.refuses(*args, **options)
        if reason is None:
            # On a CPU it is no news that what is made for a GPU doesn't run.
            expected = wanted is not None or any(isinstance(arg, torch.Tensor) and arg.is_cuda for arg in args)
            _say(operation, backend.name, reasons, logging.WARNING if reasons and expected else logging.INFO)
            return backend
        reasons.append(f"{backend.name}: {reason}")
    raise ConfigError(f"no implementation of {operation} takes these tensors; {'; '.join(reasons)}")


def triton_refuses(*tensors: torch.Tensor) -> str | None:
    """What every Triton kernel asks for: Triton, and a GPU unless its interpreter runs it."""
    if find_spec("triton") is None:
        return "triton is not installed"
    on_gpu = all(tensor.device.type == "cuda" for tensor in tensors)
    if interpreting():
        # Interpreted kernels are slower by orders of magnitude: only who asks for them gets them.
        if forced() != "triton":
            return f"TRITON_INTERPRET is set, but {VARIABLE} isn't triton"
        return "TRITON_INTERPRET is set, and the tensors are on a GPU; unset it" if on_gpu else None
    return None if on_gpu else f"the tensors are on {tensors[0].device.type}, not on a CUDA device"


def fails_its_trial(kernel: Hashable, error: Callable[[], float], most: float) -> str | None:
    """Why a kernel is not trusted on this machine, None if it is; tried once.

    Args:
        kernel: name, device and whatever else its compiled code depends on.
        error: tries it on a small problem; relative distance of results and gradients from those of its slow twin.
        most: the largest distance that rounding explains.

    Who forces ``triton`` gets it untried: tests and benchmarks are to see what it does.
    """
    if forced() == "triton":
        return None
    if kernel not in _trials:
        try:
            with torch.inference_mode(False):  # what is made in that mode has no gradient
                off = error()
            _trials[kernel] = None if off <= most else f"on a trial it was off by {off:.1e} from its slow twin"
        except torch.OutOfMemoryError:
            return "there was no memory for its trial"  # another time there may be
        except Exception as problem:  # no compiler, too little shared memory, a driver too old: all speak against it
            text = " ".join(str(problem).split())[:200]
            _trials[kernel] = f"a trial ended in {type(problem).__name__}: {text}"
        if _trials[kernel] is not None:
            log.warning("a Triton kernel is not used: %s (%s)", _trials[kernel], kernel)
    return _trials[kernel]


def distance(got: Sequence[torch.Tensor], want: Sequence[torch.Tensor]) -> float:
    """The largest relative distance of tensors from those they should equal; NaN where one is."""
    pairs = [(g.detach().double(), w.detach().double()) for g, w in zip(got, want, strict=True)]
    return float(torch.stack([(g - w).norm() / w.norm().clamp(min=1e-12) for g, w in pairs]).max())


def on_device_of(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which needn't be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def interpreting() -> bool:
    """Does Triton interpret its kernels? It has to be set before a kernel's module is imported."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def _say(operation: str, name: str, reasons: Sequence[str], level: int) -> None:
    said = (operation, name, "; ".join(reasons))
    if said not in _said:
        _said.add(said)
        log.log(level, "%s runs on %s%s", operation, name, f" ({said[2]})" if reasons else "")
