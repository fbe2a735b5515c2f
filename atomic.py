"""Files that are either the old ones or the new ones, whole, however the process or the machine stops."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

TEMPORARY = ".tmp-"
"""Unfinished work is named ``.tmp-<what>-<pid>`` and stands beside what it will become."""
_PID = re.compile(r"-(\d{1,9})$")


def temporary_beside(path: Path) -> Path:
    """Where this process prepares ``path``: the same folder, so that the rename at the end is atomic."""
    return path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write(temporary path)``, then replace ``path`` by what it wrote: fsync, rename, fsync of the folder.

    Raises:
        OSError, or whatever ``write`` raises: the old file is untouched and the temporary one is gone.
    """
    temporary = temporary_beside(path)
    try:
        write(temporary)
        fsync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync(path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """``write_whole`` of bytes that are at hand."""
    write_whole(path, lambda temporary: temporary.write_bytes(data))


def fsync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def abandoned(folder: Path) -> list[Path]:
    """Temporaries in ``folder`` whose process is gone. Our own id counts as gone: ask when nothing is under way."""
    found = []
    for path in folder.glob(f"{TEMPORARY}*"):
        pid = _PID.search(path.name)
        if pid and (int(pid[1]) == os.getpid() or not _alive(int(pid[1]))):
            found.append(path)
    return sorted(found)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process
        return True
    return True
