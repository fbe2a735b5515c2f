"""LoRA: train small matrices beside frozen weights, save only them, and merge them in when that is wanted.

    y = W x + (alpha / r) B A x        W frozen (out, in), A (r, in) random, B (out, r) zero at the start

With r much smaller than in and out, gradients, moments and files shrink to r (in + out) numbers per matrix, and no
reference model is kept: without the adapter the policy is the reference. Rollouts decode with the adapter in place,
unmerged: merging and taking out again would change the frozen weights by rounding. Evaluation merges on loading.

A saved adapter is peft's (``adapter_config.json``, ``adapter_model.safetensors``) and ``laconic_adapter.json``, which
says what base it belongs to: by name, and by a fingerprint of that model's norms and biases.

Source: LoRA, arXiv 2106.09685; targets as in Hugging Face peft 0.21 ("all-linear").
"""

from __future__ import annotations

import difflib
import hashlib
import json
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..atomic import temporary_beside
from ..errors import ConfigError, DataError
from .hub.download import ADAPTER_CONFIG, fetch_adapter, kind_on_hub, on_hub
from .model_files import resolve_model

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

    from ..eval.model_spec import ModelSpec
    from .trainer import LaconicTrainer

ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASE_FILE = "laconic_adapter.json"
"""What the adapter was trained on: ``base`` (name) and ``fingerprint``."""
BITS = {"float32": 4, "bfloat16": 2}
"""Bytes of a frozen weight."""


@dataclass(frozen=True)
class NoAdapter:
    """All weights are trained."""

    name: ClassVar[str] = "none"
    dtype: ClassVar[Literal["float32"]] = "float32"

    def check(self, names: Collection[str] | None) -> None:
        """Nothing to refuse."""

    def peft_config(self, model: PreTrainedModel) -> None:
        """trl trains the model as it is."""

    def describe(self, folder: Path, trainer: LaconicTrainer) -> None:
        """A whole model needs no base."""


@dataclass(frozen=True)
class Lora:
    """Low-rank matrices beside the linear layers of a frozen model. It wants about ten times the learning rate."""

    r: int = 16
    """Rank of the matrices."""
    alpha: float = 32.0
    """The product of the matrices is scaled by alpha / r."""
    dropout: float = 0.0
    """Must be 0: with dropout the trainer would score answers under another model than the one that sampled them."""
    targets: tuple[str, ...] = ()
    """Names of linear layers, such as q_proj; empty takes all but the output head."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the frozen weights: bfloat16 halves their memory. The adapter itself is trained in float32."""

    name: ClassVar[str] = "lora"

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ConfigError(f"adapter.r is {self.r} but must be at least 1; usual values are 8 to 64")
        if not self.alpha > 0:
            raise ConfigError(f"adapter.alpha is {self.alpha:g} but must be above 0; the usual value is 2 r")
        if self.dropout:
            raise ConfigError(
                f"adapter.dropout is {self.dropout:g} but must be 0: answers are sampled without dropout, and with it "
                "the trainer would score them under another model; delete the key"
            )

    def check(self, names: Collection[str] | None) -> None:
        """Refuse targets that are not linear layers of the model; ``names`` are those that are, None when unknown."""
        if names is None:
            return
        for target in self.targets:
            if target in ("lm_head", "embed_out"):
                raise ConfigError(
                    f"adapter.targets: {target} cannot have an adapter, because log-probs are computed from its own "
                    "weight; leave it out"
                )
            if target not in names:
                close = difflib.get_close_matches(target, names, n=2, cutoff=0.4)
                hint = f"did you mean {' or '.join(close)}? " if close else ""
                raise ConfigError(
                    f"adapter.targets: the model has no linear layer {target!r}; {hint}It has "
                    f"{', '.join(sorted(names))}; leave adapter.targets out for all of them"
                )

    def peft_config(self, model: PreTrainedModel) -> LoraConfig:
        """peft's settings for ``model``. Raises ``ConfigError`` for targets it does not have."""
        from peft import LoraConfig

        names = linear_layers(model)
        self.check(names)
        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=0.0,
            target_modules=sorted(self.targets or names),
            task_type="CAUSAL_LM",
        )

    def parameters(self, spec: ModelSpec) -> int:
        """Trained numbers, for the layer names that Llama, Qwen and their kin share."""
        queries, keys = spec.q_heads * spec.head_dim, spec.kv_heads * spec.head_dim
        width = {
            "q_proj": spec.hidden + queries,
            "k_proj": spec.hidden + keys,
            "v_proj": spec.hidden + keys,
            "o_proj": queries + spec.hidden,
            "gate_proj": spec.hidden + spec.ffn,
            "up_proj": spec.hidden + spec.ffn,
            "down_proj": spec.ffn + spec.hidden,
        }
        return spec.layers * self.r * sum(width.get(name, 0) for name in self.targets or width)

    def describe(self, folder: Path, trainer: LaconicTrainer) -> None:
        """Write down the base beside the saved adapter, in place of the path it was loaded from."""
        config = folder / ADAPTER_CONFIG
        content = json.loads(config.read_text("utf-8"))
        content["base_model_name_or_path"] = trainer.settings.model
        config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")
        base = {"base": trainer.settings.model, "fingerprint": trainer.base_fingerprint}
        (folder / BASE_FILE).write_text(json.dumps(base, indent=2) + "\n", "utf-8")
        (folder / "README.md").unlink(missing_ok=True)  # peft's card holds nothing but placeholders


ADAPTERS: dict[str, type] = {"none": NoAdapter, "lora": Lora}
"""What may be trained, by the name in a configuration."""


def causal_lm(model: Any) -> PreTrainedModel:
    """The transformers model inside a PEFT wrapper; with its adapter, whose layers lie inside."""
    bare: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    return bare


def linear_layers(model: PreTrainedModel) -> set[str]:
    """Last names of the linear layers, the output head left out."""
    from torch import nn

    head = model.get_output_embeddings()
    linear = (name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head)
    return {name.rpartition(".")[2] for name in linear}


def fingerprint(model: PreTrainedModel) -> str:
    """Tells base models apart by their vectors (norms, biases), rounded to bfloat16 as any copy of them may be."""
    import torch

    digest = hashlib.blake2b(digest_size=8)
    for name, value in model.named_parameters():
        if value.dim() == 1:
            digest.update(name.encode())
            digest.update(value.detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def find_adapter(location: str) -> Path | None:
    """The folder of the adapter at ``location`` (a folder or a Hub id), or None where there is a whole model.

    Raises:
        DataError: a Hub id that cannot be had.
    """
    path = Path(location)
    if path.exists():
        return path if (path / ADAPTER_CONFIG).is_file() and not (path / "config.json").is_file() else None
    return fetch_adapter(location) if kind_on_hub(location) == "adapter" else None


def check_reachable(model: str, adapter: str | None = None) -> None:
    """Raise ``DataError`` for Hub ids that cannot be had; for a model that is an adapter also that of its base.

    Nothing of a whole model is fetched, so that the answer comes before anything heavy.
    """
    if adapter is not None and on_hub(adapter):
        adapter_folder(adapter)
    found = find_adapter(str(Path(model) / "model") if _is_run(model) else resolve_model(model))
    if found is not None and adapter is None:
        check_reachable(base_of(found))


def base_of(adapter: Path) -> str:
    """Name of the model the adapter belongs to. Raises ``DataError`` where it names none."""
    for file, key in ((BASE_FILE, "base"), (ADAPTER_CONFIG, "base_model_name_or_path")):
        name = _read(adapter / file).get(key)
        if name:
            return str(name)
    raise DataError(f"{adapter} does not name its base model; give it: laconic eval BASE --adapter {adapter}")


def merge_into(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """``model`` with the adapter's product added to its weights; it is changed in place.

    Raises:
        DataError: the adapter belongs to another base, or is damaged.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    name = getattr(model.config, "name_or_path", "the model")
    known = _read(adapter / BASE_FILE)
    if known.get("fingerprint") not in (None, fingerprint(model)):
        raise DataError(f"the adapter {adapter} was trained on {known['base']}, and {name} is another model; give that")
    try:
        with safe_open(adapter / ADAPTER_WEIGHTS, "pt") as file:
            saved = set(file.keys())
        wrapped = PeftModel.from_pretrained(model, str(adapter))
    except (RuntimeError, ValueError, OSError, SafetensorError) as error:
        raise DataError(
            f"the adapter {adapter} cannot be put on {name}: {error}; give the base it was trained on"
        ) from error
    if (own := set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))) != saved:
        raise DataError(
            f"the adapter {adapter} has {len(saved)} tensors, but {name} takes {len(own)}, and "
            f"{_first(saved ^ own)} is only on one side; give the base it was trained on"
        )
    merged: PreTrainedModel = wrapped.merge_and_unload()
    return merged


def merge(adapter: str | Path, out: str | Path, base: str | None = None) -> Path:
    """Write a whole model, as any transformers user loads it: base, adapter and tokenizer; returns ``out``.

    Args:
        adapter: an adapter's folder, the folder of a finished run, or a Hub id.
        out: made; must not exist.
        base: name, folder or Hub id of the base; by default what the adapter names.

    Raises:
        DataError: no adapter there, another base, or ``out`` exists.
    """
    from .load_model import load_model, stored_dtype

    source, target = adapter_folder(adapter), Path(out)
    if target.exists():
        raise DataError(f"{target} exists; give a folder that does not, or delete it")
    # Summed in float32 and rounded once, to the precision the base is stored in.
    location = base or base_of(source)
    model, tokenizer = load_model(location, training=True, adapter=str(source))
    unfinished = temporary_beside(target)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    try:
        model.to(stored_dtype(location)).save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return target


def adapter_folder(name: str | Path) -> Path:
    """Where the adapter called ``name`` lies: itself, ``model/`` in the folder of a run, or downloaded from the Hub.

    Raises:
        DataError: there is none.
    """
    found = find_adapter(str(Path(name) / "model" if _is_run(name) else name))
    if found is None:
        raise DataError(
            f"no adapter at {name} (no {ADAPTER_CONFIG}); give the folder of a finished run with adapter.name=lora, "
            "one of its checkpoints, or a Hub id"
        )
    return found


def _is_run(name: str | Path) -> bool:
    """Whether this is the folder of a run with a finished model."""
    return (Path(name) / "config.yaml").is_file() and (Path(name) / "model").is_dir()


def _read(file: Path) -> dict[str, Any]:
    from .model_files import read_json

    return read_json(file) if file.is_file() else {}


def _first(names: Iterable[str]) -> str:
    return min(names, default="")
