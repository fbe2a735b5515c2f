"""One push is one commit: files go up first, one by one, and become visible together or not at all.

A file that has arrived is known to the Hub by its hash, so the same command sends only what is missing. Nothing here
retries: huggingface_hub already does, five times with growing pauses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, constants, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from ...errors import ConfigError, RunError
from .card import LICENCE_KEYS
from .package import PlannedFile, outdated

Report = Callable[[str], None]
TOKENS = "https://huggingface.co/settings/tokens"


@dataclass(frozen=True)
class Target:
    """A repository that may be written to."""

    api: HfApi
    repo: str
    """``user/name``."""


@dataclass(frozen=True)
class Pushed:
    """What a push left on the Hub."""

    url: str
    commit: str


def check_name(repo: str) -> None:
    """Raise ``ConfigError`` unless ``repo`` can be a repository: ``name`` or ``user/name``."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"--repo {repo!r} cannot be a repository: {error}") from error


def connect(repo: str, *, private: bool) -> Target:
    """Who pushes, and whether they may push there; nothing is changed.

    Raises:
        ConfigError: no or an unusable token, a repository of somebody else's, a public one for a private push.
        RunError: the Hub cannot be reached.
    """
    check_name(repo)
    token = get_token()
    if token is None:
        raise ConfigError(
            f"no token for {constants.ENDPOINT}: make one that may write at {TOKENS}, then type hf auth login or set "
            "HF_TOKEN; laconic push ... --dry-run needs none"
        )
    api = HfApi(token=token, library_name="laconic")
    with _explained("cannot be asked who you are"):
        me = _whoami(api)
    owners = [str(me["name"]), *(str(group["name"]) for group in me.get("orgs", []))]
    repo = repo if "/" in repo else f"{me['name']}/{repo}"
    owner = repo.partition("/")[0]
    if owner.lower() not in [name.lower() for name in owners]:
        raise ConfigError(
            f"{repo} belongs to {owner!r}, but the token is of {owners[0]!r}, who can write to "
            f"{', '.join(f'{name}/...' for name in owners)}; push with --repo {owners[0]}/{repo.partition('/')[2]}, or "
            f"use a token of {owner!r}"
        )
    if (me.get("auth") or {}).get("accessToken", {}).get("role") == "read":
        raise ConfigError(f"the token of {owners[0]!r} may only read; make one that may write at {TOKENS}")
    with _explained(f"does not say whether {repo} exists"):
        if private and _is_public(api, repo):
            raise ConfigError(
                f"{repo} exists and is public, so --private would not keep this push private; make it private in its "
                "settings on the Hub, choose another --repo, or leave --private out"
            )
    return Target(api, repo)


def base_licence(base: str) -> dict[str, str]:
    """What the card of a model on the Hub says of its licence; empty where it says nothing or cannot be asked."""
    try:
        data = HfApi().model_info(base).card_data
    except (httpx.HTTPError, OfflineModeIsEnabled):
        return {}
    return {key: str(data[key]) for key in LICENCE_KEYS if data is not None and data.get(key)}


def local_licence(text: str) -> dict[str, str]:
    """The same of a card's text."""
    data = ModelCard(text, ignore_metadata_errors=True).data
    return {key: str(data[key]) for key in LICENCE_KEYS if data.get(key)}


def upload(target: Target, files: Sequence[PlannedFile], *, private: bool, message: str, report: Report) -> Pushed:
    """Make the repository if there is none, send the files, publish them in one commit.

    Raises:
        RunError: it failed; the message says what arrived. Nothing is visible until the commit, and the same call
            goes on.
    """
    api, repo = target.api, target.repo
    with _explained(f"did not make the repository {repo}"):
        url = api.create_repo(repo, private=True if private else None, exist_ok=True)
        remote = api.list_repo_files(repo)
    additions = [
        CommitOperationAdd(file.path, file.source if isinstance(file.source, bytes) else str(file.source))
        for file in files
    ]
    for number, addition in enumerate(additions, start=1):
        path = addition.path_in_repo
        with _explained(
            f"stopped at file {number} of {len(files)}, {path}: the large files before it have arrived and are not "
            f"sent again; nothing of this push is visible in {repo} yet"
        ):
            api.preupload_lfs_files(repo, [addition], free_memory=False)
        report(f"sent {number} of {len(files)}: {path}")
    deletions = [CommitOperationDelete(path) for path in outdated(remote, files)]
    for deletion in deletions:
        report(f"{deletion.path_in_repo} is of an earlier push and goes")
    with _explained(
        "did not take the commit: the large files have arrived and are not sent again; unless only the answer was "
        f"lost, nothing of this push is visible in {repo}"
    ):
        commit = api.create_commit(repo, [*additions, *deletions], commit_message=message)
    return Pushed(str(url), commit.oid)


def _whoami(api: HfApi) -> dict[str, Any]:
    try:
        return api.whoami()
    except HfHubHTTPError as error:
        if error.response.status_code == 401:
            raise ConfigError(
                f"{constants.ENDPOINT} does not know the token; make one that may write at {TOKENS}, then type "
                "hf auth login or set HF_TOKEN"
            ) from error
        raise


def _is_public(api: HfApi, repo: str) -> bool:
    try:
        return not api.model_info(repo).private
    except RepositoryNotFoundError:
        return False


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """A failure of the Hub or the way to it as one sentence: what, why, how to go on."""
    try:
        yield
    except (ConfigError, RunError):
        raise
    except OfflineModeIsEnabled as error:
        raise ConfigError(
            f"HF_HUB_OFFLINE is set, so {constants.ENDPOINT} is not asked for anything; unset it to push, or add "
            "--dry-run to see what would be pushed"
        ) from error
    except (httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
        raise RunError(
            f"{constants.ENDPOINT} {what}. Reason: {_reason(error)}. Type the same command again to go on"
        ) from error


def _reason(error: BaseException) -> str:
    """The innermost failure, in one line."""
    while error.__cause__ is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    if isinstance(error, HfHubHTTPError):
        answer = error.response
        hint = ", so the token may not write there" if answer.status_code == 403 else ""
        return f"HTTP {answer.status_code} {error.server_message or answer.reason_phrase}".strip() + hint
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
