"""The trained weights in memory: to know an evaluation of them by its hash, and to merge an adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ...eval.identity import weights_hash
from ..load_model import load_model
from .trained_run import TrainedRun


def trained_hashes(run: TrainedRun, dtypes: Iterable[str]) -> set[str]:
    """Hashes that an evaluation of the run's model can have recorded, computed in one of ``dtypes``."""
    return _hashes(lambda: merged(run), dtypes)


def base_hashes(run: TrainedRun, dtypes: Iterable[str]) -> set[str]:
    """The same of the base model."""
    return _hashes(lambda: load_model(run.settings.model, training=True)[0], dtypes)


def merged(run: TrainedRun) -> PreTrainedModel:
    """The whole trained model, in the float32 of training; an adapter is merged into its base."""
    if run.adapter is None:
        return load_model(str(run.model), training=True)[0]
    return load_model(run.settings.model, training=True, adapter=str(run.model))[0]


def _hashes(load: Callable[[], torch.nn.Module], dtypes: Iterable[str]) -> set[str]:
    """Loaded in float32, which holds the other types' values exactly, and converted once as the evaluation did."""
    digests = (weights_hash(load().to(getattr(torch, name))) for name in sorted(set(dtypes)))
    return {digest for digest in digests if digest}


def save_merged(run: TrainedRun, folder: Path) -> None:
    """Write configuration and weights of the merged model into ``folder``."""
    merged(run).save_pretrained(folder)
