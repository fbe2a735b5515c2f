"""One folder, one process at a time: ``run.lock`` in it is held by the process that writes there.

The kernel frees the lock when the process ends, however it ends, so that a dead owner never keeps it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import RunError

LOCK = "run.lock"
_held: dict[Path, int] = {}
"""Lock descriptors of this process. A POSIX lock falls when any descriptor of the file is closed, so there is one."""
log = logging.getLogger(__name__)


@contextmanager
def locked(folder: Path, doing: str, remedy: str) -> Iterator[None]:
    """``lock`` while the block runs; a folder that this process holds already stays held."""
    path = folder.resolve()
    ours = path not in _held
    lock(path, folder, doing, remedy)
    try:
        yield
    finally:
        if ours:
            unlock(path)


def lock(path: Path, shown: Path, doing: str, remedy: str) -> None:
    """Take the lock of the folder at the resolved ``path``, which is there and is called ``shown`` in messages.

    Raises:
        RunError: another process is ``doing`` ("training into") something there; its message ends in ``remedy``.
        OSError: the lock file cannot be made.
    """
    if path in _held:
        return
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            owner = os.read(descriptor, 100).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise RunError(
                f"another process is {doing} {shown} (pid {owner}); wait for it, or stop it, or {remedy}"
            ) from error
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            os.close(descriptor)
            raise
        log.warning("the file system of %s has no locks: see to it that only one process is %s it", shown, doing)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    _held[path] = descriptor


def unlock(path: Path) -> None:
    """Let another process have the folder at the resolved ``path``. Idempotent."""
    descriptor = _held.pop(path, None)
    if descriptor is not None:
        os.close(descriptor)
