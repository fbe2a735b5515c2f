"""What a trainer leaves on the disk: checkpoints written by all ranks together, and the finished model.

The first rank makes the temporary folder, seals and renames it (``checkpoint.py``); in between every rank writes what
only it has: its random state, and under DeepSpeed its part of the optimizer.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME

from ..atomic import temporary_beside
from ..errors import ConfigError, RunError
from .adapter import causal_lm
from .checkpoint import save_checkpoint
from .critic import without_value_head
from .load_model import stored_dtype
from .parking import write_waiting
from .ranks import Ranks

if TYPE_CHECKING:
    from .trainer import LaconicTrainer

METHOD_STATE = "laconic_state.json"
"""State of our own in a checkpoint: what methods remember, and who wrote it."""


def save_together(ranks: Ranks, folder: Path, step: int, write: Callable[[Path], None], *, keep: int) -> None:
    """``save_checkpoint`` with ``write`` called on every rank; returns when the checkpoint is in place."""

    def write_everywhere(temporary: Path | None) -> None:
        shared = ranks.share(temporary)
        assert shared is not None
        write(shared)
        ranks.wait()  # sealed only when all of it is there

    if ranks.first:
        save_checkpoint(folder, step, write_everywhere, keep=keep)
    else:
        write_everywhere(None)
    ranks.wait()


def write_state(trainer: LaconicTrainer, folder: Path) -> None:
    """This rank's part of a checkpoint: weights, optimizer, schedule, random state, trl's state and ours."""
    _write_weights(trainer, folder)
    trainer._save_optimizer_and_scheduler(str(folder))
    trainer._save_rng_state(str(folder))
    write_waiting(trainer, folder)
    if trainer.ranks.first:
        trainer._tokenizer.save_pretrained(folder)
        trainer.settings.adapter.describe(folder, trainer)
        trainer.state.save_to_json(str(folder / "trainer_state.json"))
        remembered = {"reward": trainer.reward_states, "alarms": trainer.alarms.state_dict()}
        state = {"sampler": trainer.sampler.state_dict(), **remembered, **_layout(trainer)}
        (folder / METHOD_STATE).write_text(json.dumps(state))


def read_states(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint remembers: of the ``sampler``, of ``reward`` (shapings and selection), of ``alarms``."""
    return {"reward": None, "alarms": {}} | _read(checkpoint)


def check_layout(trainer: LaconicTrainer, checkpoint: Path) -> None:
    """Raise ``ConfigError`` for a checkpoint whose optimizer lies in parts that these ranks cannot take up.

    Without DeepSpeed the optimizer is saved whole, so that the number of ranks may change.
    """
    wrote, own = {"ranks": 1, "deepspeed": False} | _read(checkpoint), _layout(trainer)
    if wrote["deepspeed"] != own["deepspeed"] or (own["deepspeed"] and wrote["ranks"] != own["ranks"]):
        raise ConfigError(
            f"{checkpoint} was written by {_in_words(wrote)}, but this run has {_in_words(own)}; start it with the "
            "accelerate configuration it began with, or start a new run with another name=... and "
            f"model={checkpoint}"
        )


def export(trainer: LaconicTrainer, folder: Path) -> Path:
    """The finished model (or adapter) and its tokenizer, as any transformers user loads them; returns ``folder``.

    Training computes in float32; a whole model is rounded once, to the number type its base is stored in. Checkpoints
    keep what training goes on from.

    Raises:
        RunError: they cannot be written; the last checkpoint has them, too.
    """
    unfinished = trainer.ranks.share(temporary_beside(folder))
    try:
        _write_weights(trainer, unfinished)
        if trainer.ranks.first:
            if (unfinished / CONFIG_NAME).is_file():
                _round(unfinished, stored_dtype(trainer.settings.model))
            trainer._tokenizer.save_pretrained(unfinished)
            trainer.settings.adapter.describe(unfinished, trainer)
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
    except Exception as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise RunError(
            f"cannot write the finished model to {folder}: {type(error).__name__}: {error}; free disk space, or "
            "mend the cause named here, and start the same command again: all steps are done and saved"
        ) from error
    trainer.ranks.wait()
    return folder


def _round(folder: Path, dtype: torch.dtype) -> None:
    """Store the weights in ``folder`` as ``dtype`` where that is the smaller type, one file after the other.

    A critic's are left out.
    """

    def rounded(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() and tensor.itemsize > dtype.itemsize else tensor

    size = 0
    for file in sorted(folder.glob("*.safetensors")):
        smaller = temporary_beside(file)
        with safe_open(file, framework="pt") as opened:
            names = without_value_head(dict.fromkeys(opened.keys()))
            weights = {name: rounded(opened.get_tensor(name)) for name in names}
            save_file(weights, smaller, opened.metadata())
        smaller.replace(file)
        size += sum(tensor.nbytes for tensor in weights.values())
    index, config = folder / SAFE_WEIGHTS_INDEX_NAME, folder / CONFIG_NAME
    if index.is_file():
        listed = json.loads(index.read_text())
        listed["metadata"]["total_size"] = size
        listed["weight_map"] = without_value_head(listed["weight_map"])
        index.write_text(json.dumps(listed, indent=2, sort_keys=True) + "\n")
    fields = json.loads(config.read_text())
    if getattr(torch, fields.get("dtype") or "float32").itemsize > dtype.itemsize:
        config.write_text(json.dumps({**fields, "dtype": str(dtype).removeprefix("torch.")}, indent=2) + "\n")


def _write_weights(trainer: LaconicTrainer, folder: Path) -> None:
    """Weights and configuration, or the adapter's; all ranks take part."""
    with _cache_as_in_the_base(trainer):
        trainer.save_model(str(folder), _internal_call=True)


@contextmanager
def _cache_as_in_the_base(trainer: LaconicTrainer) -> Iterator[None]:
    """transformers' Trainer turns ``use_cache`` off; saved so, the model would decode without a cache everywhere."""
    config = causal_lm(trainer.accelerator.unwrap_model(trainer.model)).config
    training = config.use_cache
    config.use_cache = trainer.base_use_cache
    try:
        yield
    finally:
        config.use_cache = training


def _read(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((checkpoint / METHOD_STATE).read_text())
    return state


def _layout(trainer: LaconicTrainer) -> dict[str, Any]:
    return {"ranks": trainer.ranks.count, "deepspeed": bool(trainer.is_deepspeed_enabled)}


def _in_words(layout: dict[str, Any]) -> str:
    ranks = "1 rank" if layout["ranks"] == 1 else f"{layout['ranks']} ranks"
    return f"{ranks} {'under' if layout['deepspeed'] else 'without'} DeepSpeed"
