"""Where a model's files are, and whether they are all there, without loading anything heavy."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

from ..errors import DataError

PACKAGED = {"tiny-thinker": Path(__file__).parent / "thinker" / "weights"}
"""Models that ship inside the package."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve_model(name: str) -> str:
    """What ``from_pretrained`` takes for ``name``: a folder (packaged or given) or a Hub id.

    Raises:
        DataError: neither a packaged name, an existing folder nor of the form ``organisation/model``; no such run.
    """
    if name in PACKAGED:
        return str(PACKAGED[name])
    if Path(name).exists():
        return name
    if name.startswith("runs/") and Path("runs").is_dir():  # not a Hub id, however much it looks like one
        runs = [str(path) for path in sorted(Path("runs").iterdir()) if path.is_dir()]
        close = difflib.get_close_matches(name, runs, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise DataError(f"no run at {name!r}{hint}; give the folder of a run: ls runs lists them")
    if _HUB_ID.fullmatch(name):
        return name
    close = difflib.get_close_matches(name, PACKAGED, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise DataError(
        f"no model at {name!r}{hint}; give {', '.join(map(repr, PACKAGED))}, a folder with config.json, weights and "
        "tokenizer, or a Hub id such as 'Qwen/Qwen2.5-0.5B'"
    )


def check_model_folder(location: str | Path) -> None:
    """Raise ``DataError`` unless a folder holds a configuration, complete weights and a tokenizer with an EOS token.

    A Hub id passes: ``from_pretrained`` fetches it, or says itself what is missing.
    """
    path = Path(location)
    if not path.exists() and _HUB_ID.fullmatch(str(location)):
        return
    if not path.is_dir():
        raise DataError(f"{path} is not a folder; give the folder that holds config.json, weights and tokenizer")
    if not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            raise DataError(f"{path} holds an adapter without its base model; laconic merge makes a whole one of it")
        raise DataError(f"{path} has no config.json; save the model there with model.save_pretrained({str(path)!r})")
    _check_weights(path)
    _check_tokenizer(path)


def _check_weights(path: Path) -> None:
    if (path / "model.safetensors").is_file():
        return
    # What transformers looks for, in its order: many repositories hold an index of pickled weights as well.
    indexes = [*path.glob("*.safetensors.index.json")] or [*path.glob("*.bin.index.json")]
    needed = {shard for index in indexes for shard in read_json(index).get("weight_map", {}).values()}
    lost = sorted(shard for shard in needed if not (path / shard).is_file())
    if lost:
        raise DataError(f"{path} lacks {len(lost)} of {len(needed)} weight files, first {lost[0]}; copy them there")
    if not needed and not [*path.glob("*.safetensors"), *path.glob("pytorch_model*.bin")]:
        raise DataError(
            f"{path} has a config.json but no weights (*.safetensors); save the model there with "
            f"model.save_pretrained({str(path)!r})"
        )


def _check_tokenizer(path: Path) -> None:
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        raise DataError(
            f"{path} has no tokenizer (tokenizer.json); save it there with tokenizer.save_pretrained({str(path)!r})"
        )
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (path / name).is_file() and read_json(path / name).get("eos_token"):
            return
    # Some tokenizer classes bring their EOS token with them, so only loading settles the question. A default that the
    # saved vocabulary does not hold gets an id the model never learned: such a token ends nothing.
    from transformers import AutoTokenizer

    try:
        end = AutoTokenizer.from_pretrained(path).eos_token
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the tokenizer cannot be loaded ({error}); save it again") from error
    if end is None or not _in_vocabulary(path / "tokenizer.json", end):
        raise DataError(
            f"{path}: the tokenizer has no EOS token, so no completion would ever end; set tokenizer.eos_token to the "
            "token that ends an answer and save the tokenizer again"
        )


def _in_vocabulary(file: Path, token: str) -> bool:
    if not file.is_file():
        return True
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file)).token_to_id(token) is not None


def linear_layers_on_disk(model: str) -> set[str] | None:
    """Last names of a model's linear layers (embeddings and output head left out), from the headers of its weight
    files; None where it has none on disk."""
    files = sorted(Path(resolve_model(model)).glob("*.safetensors"))
    names = set()
    for file in files:
        for name, tensor in _safetensors_header(file).items():
            layer, _, kind = name.rpartition(".")
            if kind == "weight" and len(tensor["shape"]) == 2:
                names.add(layer.rpartition(".")[2])
    return {name for name in names if "embed" not in name and name not in ("wte", "wpe", "lm_head")} or None


def _safetensors_header(file: Path) -> dict[str, Any]:
    """Name -> dtype, shape and place of every tensor: eight bytes of length, then so much JSON."""
    with file.open("rb") as opened:
        header: dict[str, Any] = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    header.pop("__metadata__", None)
    return header


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ``DataError`` when it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); copy the file again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a JSON object, but holds a {type(content).__name__}")
    return content
