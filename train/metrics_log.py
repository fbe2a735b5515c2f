"""``metrics.jsonl``: one JSON object per step, in order, each step once.

A line is flushed when it is written. A run that goes on from step s first drops the lines after s, which the
checkpoint does not know of, and a last line that was torn by a kill.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..atomic import write_atomically
from ..errors import DataError

log = logging.getLogger(__name__)


class MetricsLog:
    """Append-only writer. Opening a file drops a torn last line and nothing else."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.last_step: int | None = None
        """Step of the last line, None while there is none."""
        self._file: BinaryIO | None = None
        self.drop_after(None)

    def drop_after(self, step: int | None) -> None:
        """Drop the lines of later steps, atomically; call it with the step the run goes on from, 0 for a new one."""
        self.close()
        content = self.path.read_bytes() if self.path.exists() else b""
        kept = [(line, record["step"]) for line, record in _parse(self.path, content)]
        if step is not None:
            kept = [(line, of) for line, of in kept if of <= step]
        remaining = b"".join(line for line, _ in kept)
        if remaining != content:
            write_atomically(self.path, remaining)
        self.last_step = kept[-1][1] if kept else None
        if step is not None and step > (self.last_step or 0):
            log.warning("%s ends at step %s but the run goes on from %d", self.path, self.last_step, step)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one line; NaN and infinities become null.

        Raises:
            ValueError: ``record["step"]`` is missing or not after the last one written.
        """
        step = record.get("step")
        if not isinstance(step, int):
            raise ValueError(f"a record of {self.path} needs an integer step, got {step!r}")
        if self.last_step is not None and step <= self.last_step:
            raise ValueError(
                f"step {step} cannot follow step {self.last_step} in {self.path}; "
                "a run that goes on calls drop_after with its checkpoint's step first"
            )
        if self._file is None:
            self._file = self.path.open("ab")
        self._file.write((json.dumps(_plain(record), allow_nan=False) + "\n").encode())
        self._file.flush()
        self.last_step = step

    def sync(self) -> None:
        """Wait until all lines are on the disk; called before a checkpoint, which must not outlive its lines."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a torn last line is left out.

    Raises:
        DataError: the file is missing, or a line before the last is not a record.
    """
    if not path.exists():
        raise DataError(f"no metrics at {path}; give a folder in which a run has begun")
    return [record for _, record in _parse(path, path.read_bytes())]


def _parse(path: Path, content: bytes) -> list[tuple[bytes, dict[str, Any]]]:
    """``(line with its newline, record)`` of every whole line."""
    lines = content.splitlines(keepends=True)
    parsed = []
    for number, line in enumerate(lines, start=1):
        record = _record(line)
        if record is not None:
            parsed.append((line, record))
        elif number < len(lines):
            raise DataError(f"line {number} of {path} is not a record of a step; mend or delete that line")
    return parsed


def _record(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):  # torn, though it might parse: 12 of 123
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def _plain(value: Any) -> Any:
    """What JSON can hold."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
