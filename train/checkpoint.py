"""Checkpoints that are whole or not there.

    checkpoints/.tmp-step-000120-4711   being written by process 4711, never read
    checkpoints/step-000120             every file listed in manifest.json with its size and sha256

A checkpoint is written into a temporary folder, sealed with a manifest of hashes, flushed to the disk and renamed;
older ones go only after that. A folder without its manifest, or whose files differ from it, is never loaded.
Training into one folder from two processes is prevented by ``claim_run_folder``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..atomic import abandoned, fsync, temporary_beside
from ..errors import ConfigError, LaconicError, RunError

MANIFEST = "manifest.json"
FORMAT = 1
"""Version of the manifest's form."""
_REPLACED = ".replaced"
"""Ending of a checkpoint that is just being replaced by another one of the same step."""
_NAME = re.compile(r"step-(\d{6,})(\.replaced)?")
log = logging.getLogger(__name__)


def save_checkpoint(folder: Path, step: int, write: Callable[[Path], None], *, keep: int) -> Path:
    """Save one checkpoint; on return it is on the disk, and of the earlier ones ``keep - 1`` are left.

    Args:
        folder: ``runs/<name>/checkpoints``; made if missing.
        step: optimizer steps done.
        write: fills the (temporary) folder it is given.
        keep: how many checkpoints to keep, this one included.

    Raises:
        ConfigError: ``keep`` below 1.
        RunError: ``write`` failed or the disk is full. The temporary folder is gone, earlier checkpoints are untouched.
        KeyboardInterrupt: as it came, after the same cleaning.
    """
    if keep < 1:
        raise ConfigError(f"save.keep is {keep} but a run needs at least 1 checkpoint to go on from; raise save.keep")
    final = folder / f"step-{step:06d}"
    temporary = temporary_beside(final)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if temporary.exists():  # of an earlier process that had our id
            shutil.rmtree(temporary)
        temporary.mkdir()
        write(temporary)
        _seal(temporary, step)
        _put_in_place(temporary, final)
    except BaseException as error:
        written = _bytes_in(temporary)
        shutil.rmtree(temporary, ignore_errors=True)  # what cannot be removed now goes with the next save
        if isinstance(error, Exception) and not isinstance(error, LaconicError):
            raise RunError(_failure(folder, final, written, error)) from error
        raise
    _prune(folder, step, keep)
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose files all match its manifest, or None. Newer ones are named in a warning."""
    for path in _newest_first(folder):
        defect = find_defect(path)
        if defect is None:
            return path
        log.warning("checkpoint %s is not used: %s", path, defect)
    return None


def step_of(path: Path) -> int:
    """Optimizer steps done at a checkpoint, from its folder's name."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path} is not a checkpoint folder; those are called step-000123")
    return int(match[1])


def find_defect(path: Path, *, hashes: bool = True) -> str | None:
    """What makes a checkpoint folder unusable, or None. ``hashes=False`` compares names and sizes only."""
    try:
        manifest = _read_manifest(path / MANIFEST)
    except FileNotFoundError:
        return f"no {MANIFEST}: it was never finished"
    except (OSError, ValueError) as error:
        return f"{MANIFEST} cannot be used: {error}"
    if manifest["step"] != step_of(path):
        return f"its {MANIFEST} is of step {manifest['step']}"
    for name, want in manifest["files"].items():
        file = path / name
        try:
            size = file.stat().st_size
            if size != want["bytes"]:
                return f"{name} has {size} bytes but {MANIFEST} says {want['bytes']}"
            if hashes and _sha256(file) != want["sha256"]:
                return f"the content of {name} differs from its hash in {MANIFEST}"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error}"
    return None


def _seal(temporary: Path, step: int) -> None:
    """List every file with its hash, and wait until all of it is on the disk."""
    files = {
        file.relative_to(temporary).as_posix(): {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        for file in _files(temporary)
    }
    manifest = temporary / MANIFEST
    manifest.write_bytes(_manifest_bytes({"format": FORMAT, "step": step, "files": files}))
    for root, _, names in os.walk(temporary, topdown=False):
        for name in names:
            fsync(Path(root, name))
        fsync(Path(root))


def _put_in_place(temporary: Path, final: Path) -> None:
    """Rename; at every instant either the new checkpoint of this step or the old one can be found."""
    replaced = final.with_name(final.name + _REPLACED)
    if final.exists():
        if find_defect(final) is not None:
            _discard(final)
        else:
            if replaced.exists():
                _discard(replaced)
            final.rename(replaced)
    temporary.rename(final)
    fsync(final.parent)


def _prune(folder: Path, step: int, keep: int) -> None:
    """Remove all but the ``keep`` newest usable checkpoints up to ``step``, and what dead processes left.

    Later steps stay: they are unusable ones that a resumed run has passed over, and it will replace them.
    """
    kept: set[int] = set()
    for path in _newest_first(folder):
        this = step_of(path)
        if this > step:
            continue
        if len(kept) >= keep or this in kept:
            _discard(path)
        elif find_defect(path, hashes=False) is None:
            kept.add(this)
    for path in abandoned(folder):
        _remove(path)


def _discard(path: Path) -> None:
    """Remove a checkpoint; the rename comes first, so that a kill leaves no half of it under a name that counts."""
    aside = temporary_beside(path.with_name(f"old-{path.name}"))
    if aside.exists():  # of an earlier process that had our id
        _remove(aside)
    path.rename(aside)
    _remove(aside)


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except OSError as error:  # costs room, but the new checkpoint is safe
        log.warning("cannot remove %s: %s", path, error)


def _newest_first(folder: Path) -> list[Path]:
    """Checkpoint folders, usable or not. Of one step, the one being replaced comes last."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: (step_of(path), not path.name.endswith(_REPLACED)), reverse=True)


def _manifest_bytes(body: dict[str, Any]) -> bytes:
    """The manifest as text, with a hash of itself, so that a damaged manifest is known as such."""
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**body, "sha256": digest}, indent=1, sort_keys=True) + "\n").encode()


def _read_manifest(path: Path) -> dict[str, Any]:
    """Parse and check; raises ValueError unless the bytes are exactly those that were written."""
    data = path.read_bytes()
    manifest = json.loads(data)
    if not isinstance(manifest, dict) or "sha256" not in manifest:
        raise ValueError("it is not a manifest")
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    if _manifest_bytes(body) != data:
        raise ValueError("its content differs from its own hash")
    if body["format"] != FORMAT:
        raise ValueError(f"it has format {body['format']} but this version reads {FORMAT}")
    return body


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(root, name) for name in sorted(names) if Path(root, name) != folder / MANIFEST)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in _files(folder))


def _failure(folder: Path, final: Path, written: int, error: Exception) -> str:
    """What went wrong, how much room there is and was needed, and how to go on."""
    earlier = next((path for path in _newest_first(folder) if find_defect(path, hashes=False) is None), None)
    if earlier is not None:
        needed = f"about {_size(_bytes_in(earlier))} needed, the size of {earlier.name}"
        go_on = f"Earlier checkpoints are untouched: the same command goes on from {earlier.name}"
    else:
        needed = f"more than {_size(written)} needed, what had been written so far"
        go_on = "There is no earlier checkpoint: the same command starts from the beginning"
    standing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(standing).free
    return (
        f"cannot save {final}: {type(error).__name__}: {error} ({_size(free)} free, {needed}). "
        f"Free disk space or lower save.keep, or mend the cause named above. {go_on}."
    )


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
