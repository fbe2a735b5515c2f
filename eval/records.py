"""One row per sampled response: the columns of ``samples.parquet``, written whole or not at all.

Everything an evaluation reports is computed from these rows; nothing is generated twice. While a run is under way its
rows are in shards ``samples-00000.parquet``, ...; at the end they become ``samples.parquet``. (benchmark, problem_id,
sample_idx) is unique. Token ids are the truth: lengths are never counted in text that was encoded again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..errors import DataError

SAMPLES = "samples.parquet"
SHARDS = "samples-*.parquet"


@dataclass(frozen=True, slots=True)
class Sample:
    """One response."""

    run_id: str
    benchmark: str
    """``Problem.source``."""
    problem_id: str
    sample_idx: int
    seed: int
    level: int | None
    prompt_token_ids: NDArray[np.int32]
    response_token_ids: NDArray[np.int32]
    n_prompt: int
    n_response: int
    """Response tokens, EOS included."""
    n_think: int
    """Those up to and including the end of thought; all of them if the thought was not closed."""
    n_answer: int
    n_generated: int
    """All sampled tokens; more than ``n_response`` where some were discarded."""
    finish_reason: str
    """A ``Stop`` value."""
    think_closed: bool
    truncated: bool
    loop_flag: bool
    verdict: str
    """A ``Verdict`` value."""
    pred_raw: str | None
    """The answer found in the response."""
    gold: str
    correct: bool
    mean_logprob: float | None
    """Mean behaviour log-prob of the sampled tokens, nats."""
    prompt_text: str
    response_text: str


_IDS = pa.list_(pa.int32())
_TYPES = {
    **dict.fromkeys(("prompt_token_ids", "response_token_ids"), _IDS),
    **dict.fromkeys(("sample_idx", "level", "n_prompt", "n_response"), pa.int32()),
    **dict.fromkeys(("n_think", "n_answer", "n_generated"), pa.int32()),
    **dict.fromkeys(("think_closed", "truncated", "loop_flag", "correct"), pa.bool_()),
    "seed": pa.int64(),
    "mean_logprob": pa.float64(),
}
_NULLABLE = {"level", "pred_raw", "mean_logprob"}
SCHEMA = pa.schema(
    [pa.field(f.name, _TYPES.get(f.name, pa.string()), nullable=f.name in _NULLABLE) for f in fields(Sample)]
)
"""Columns of ``samples.parquet``, in order."""


def to_table(samples: Sequence[Sample]) -> pa.Table:
    """Rows as an Arrow table."""
    columns = [[getattr(sample, name) for sample in samples] for name in SCHEMA.names]
    return pa.table([pa.array(c, t) for c, t in zip(columns, SCHEMA.types, strict=True)], schema=SCHEMA)


def to_samples(table: pa.Table) -> list[Sample]:
    """The rows of a table; token ids are int32 arrays again."""
    rows = table.select(SCHEMA.names).to_pylist()
    for row in rows:
        for name in ("prompt_token_ids", "response_token_ids"):
            row[name] = np.asarray(row[name], np.int32)
    return [Sample(**row) for row in rows]


def write_samples(table: pa.Table, path: str | Path) -> None:
    """Write a table to ``path``: a temporary file, fsync, rename. A failed write leaves what was there."""
    write_whole(Path(path), lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def read_samples(path: str | Path) -> pa.Table:
    """The samples of a finished run: its folder or its ``samples.parquet``. Raises ``DataError``."""
    path = Path(path)
    path = path / SAMPLES if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"no samples at {path}; run the evaluation to its end first (the same command goes on)")
    return _read(path)


def read_shards(folder: str | Path) -> pa.Table:
    """All rows of the shards of an unfinished run, a row per (benchmark, problem, sample): the first written."""
    shards = [_read(path) for path in sorted(Path(folder).glob(SHARDS))]
    table = pa.concat_tables([SCHEMA.empty_table(), *shards])
    keys = zip(*(table[name].to_pylist() for name in ("benchmark", "problem_id", "sample_idx")), strict=True)
    first: dict[tuple[str, str, int], int] = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    return table.take(pa.array(list(first.values()), pa.int64()))


def write_shard(folder: str | Path, table: pa.Table) -> Path:
    """Write the next shard and return its path."""
    folder = Path(folder)
    used = [int(path.stem.rpartition("-")[2]) for path in folder.glob(SHARDS)]
    path = folder / f"samples-{max(used, default=-1) + 1:05d}.parquet"
    write_samples(table, path)
    return path


def remove_shards(folder: str | Path) -> None:
    """Remove the shards, once ``samples.parquet`` holds their rows, and what a killed run left half written."""
    for pattern in (SHARDS, ".tmp-samples*"):
        for path in Path(folder).glob(pattern):
            path.unlink()


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write(temporary path)`` and rename the result to ``path``, so that ``path`` is never half a file."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}; remove it and evaluate again") from error
    if missing := [name for name in SCHEMA.names if name not in table.column_names]:
        raise DataError(f"{path} has no column {missing[0]!r}; it was not written by laconic's evaluation")
    return table.select(SCHEMA.names).cast(SCHEMA)
