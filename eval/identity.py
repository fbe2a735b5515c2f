"""What an evaluation depends on: weights, prompts and settings as hashes, the model's size, the versions."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..errors import DataError
from .model_spec import ModelSpec
from .tasks.problem import Problem

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
_BLOCK = 1 << 22


def weights_hash(model: Any) -> str | None:
    """Hash of the weights of a model folder or of a module in memory; None for a name on a hub.

    A folder and the module loaded from it hash differently. Raises ``DataError`` for a folder without weights.
    """
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(model, str | Path):
        folder = Path(model)
        if not folder.is_dir():
            return None
        files = sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern))
        if not files:
            raise DataError(f"no weights in {folder}; it holds none of {', '.join(_WEIGHTS)}")
        for path in [*sorted(folder.glob("*config.json")), *files]:
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while data := file.read(_BLOCK):
                    digest.update(data)
        return digest.hexdigest()
    import torch

    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def problems_hash(problems: Iterable[Problem]) -> str:
    """Hash of what is asked and how it is judged."""
    return _hash([[p.id, p.prompt, p.gold, p.source, p.level, p.verifier] for p in problems])


def eval_key(weights: str, prompts: Sequence[Any], settings: dict[str, Any]) -> str:
    """Name of an evaluation's results: equal keys mean equal samples and verdicts."""
    return _hash([weights, [prompt.tolist() for prompt in prompts], settings])


def model_spec(model: Any) -> ModelSpec | None:
    """Size of a module or a model folder; None for a name on a hub."""
    if isinstance(model, str | Path):
        return ModelSpec.from_config(model) if (Path(model) / "config.json").is_file() else None
    return ModelSpec.from_config(model.config)


def describe_model(model: Any, name: str | None, weights: str | None, spec: ModelSpec | None) -> dict[str, Any]:
    """The ``model`` section of ``summary.json``."""
    path = model if isinstance(model, str | Path) else getattr(model.config, "name_or_path", "")
    dtype = None if isinstance(model, str | Path) else str(getattr(model, "dtype", "")).removeprefix("torch.") or None
    return {
        "name": name or Path(str(path)).name or type(model).__name__,
        "weights_hash": weights,
        "dtype": dtype,
        "parameters": spec and spec.parameters,
        "parameters_active": spec and spec.parameters_active,
        "spec": spec and spec.as_dict(),
    }


def versions() -> dict[str, str | None]:
    """Versions of what the numbers depend on; None for what is not installed as a package."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("laconic", "torch", "transformers", "numpy", "math-verify"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _hash(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()
