"""Models and adapters on the Hub: whether they can be had, and getting them, with one sentence where they cannot.

What was fetched once is in huggingface_hub's cache and is used from there when the Hub is out of reach. Nothing here
needs torch, so a mistyped or unreachable id is refused before anything heavy starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from ...errors import DataError
from ..model_files import PACKAGED, resolve_model

ADAPTER_CONFIG, MODEL_CONFIG = "adapter_config.json", "config.json"
_ADAPTER_FILES = ("adapter_*", "laconic_adapter.json", "*token*", "vocab.*", "merges.txt", "*.jinja")
"""What is needed of an adapter: it, what says whose it is, and its tokenizer."""


def on_hub(name: str) -> bool:
    """Whether ``name`` means a repository on the Hub: neither packaged nor a folder here.

    Raises ``DataError`` for a name that is none of these.
    """
    return name not in PACKAGED and not Path(name).exists() and resolve_model(name) == name


def kind_on_hub(repo: str) -> Literal["model", "adapter"]:
    """What the repository ``repo`` holds, by the configurations it has; asked once, so that the answer comes soon.

    Raises:
        DataError: there is no such repository, it may not be read, holds neither, or is out of reach and not cached.
    """
    import httpx
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled

    kinds: dict[str, Literal["model", "adapter"]] = {ADAPTER_CONFIG: "adapter", MODEL_CONFIG: "model"}
    with explained(repo):
        try:
            for name, kind in kinds.items():
                try:
                    get_hf_file_metadata(hf_hub_url(repo, name))
                    return kind
                except EntryNotFoundError:
                    continue
        except (OfflineModeIsEnabled, httpx.HTTPError):
            for name, kind in kinds.items():
                if isinstance(try_to_load_from_cache(repo, name), str):
                    return kind
            raise
    raise DataError(
        f"{repo} on the Hub has neither {MODEL_CONFIG} nor {ADAPTER_CONFIG}, so it holds no model that transformers "
        "loads; give another id, or a folder"
    )


def fetch_adapter(repo: str) -> Path:
    """The folder in the cache with the adapter ``repo`` and its tokenizer; what is not there yet is fetched."""
    from huggingface_hub import snapshot_download

    with explained(repo):
        return Path(snapshot_download(repo, allow_patterns=list(_ADAPTER_FILES)))


@contextmanager
def explained(location: str) -> Iterator[None]:
    """A failure to get a repository's files as one ``DataError``; of a folder's nothing is caught."""
    if Path(location).exists():
        yield
        return
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except (OfflineModeIsEnabled, HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise DataError(_sentence(location, error)) from error


def _sentence(repo: str, error: BaseException) -> str:
    """Why the files of ``repo`` cannot be had, and what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    hub, instead = constants.ENDPOINT, f"or give a folder that holds the model, or {' or '.join(PACKAGED)}"
    if constants.is_offline_mode():
        return (
            f"there is no folder {repo!r} here, and the Hub cannot be asked for a model of that name, because "
            f"HF_HUB_OFFLINE is set and it is not in the cache; unset HF_HUB_OFFLINE, {instead}"
        )
    chain = list(_chain(error))
    if any(isinstance(one, GatedRepoError) for one in chain):
        return f"{repo} is gated: accept its conditions at {hub}/{repo} and type hf auth login, {instead}"
    if any(isinstance(one, RepositoryNotFoundError) for one in chain):
        return (
            f"there is no folder {repo!r} here, and {hub} knows no model of that name, or none that you may read; "
            f"check the spelling, type hf auth login if it is private, {instead}"
        )
    answer = next((one.response.status_code for one in chain if isinstance(one, HfHubHTTPError)), None)
    reason = f"HTTP {answer}" if answer else f"{type(chain[-1]).__name__}: {' '.join(str(chain[-1]).split())}"
    return (
        f"there is no folder {repo!r} here, and {hub} did not give all files of a model of that name ({reason}); type "
        f"the same command again when it can be reached, fetch it elsewhere with hf download {repo} --local-dir "
        f"FOLDER, {instead}"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
