"""One row per sampled response: the columns of ``samples.parquet``, written whole or not at all.

Everything an evaluation reports is computed from these rows; nothing is generated twice. While a run is under way its
rows are in shards ``samples-00000.parquet``, ...; at the end they become ``samples.parquet``. (benchmark, problem_id,
sample_idx) is unique. Token ids are the truth: lengths are never counted in text that was encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..atomic import write_whole
from ..errors import DataError

SAMPLES = "samples.parquet"
SHARDS = "samples-*.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One response. What was not measured or does not apply is None."""

    run_id: str
    benchmark: str
    """``Problem.source``."""
    benchmark_rev: str | None = None
    """Hash of the benchmark's problems, as they were asked and are judged."""
    problem_id: str
    sample_idx: int
    seed: int
    stress: int | None = None
    """Problems asked at once, in stress tests."""
    perm: NDArray[np.int32] | None = None
    """Multiple choice: which option stood at each letter; option 0 is the right one."""
    variant: str | None = None
    """Attack or rewriting of the problem."""
    prompt_token_ids: NDArray[np.int32]
    response_token_ids: NDArray[np.int32]
    n_prompt: int
    n_prompt_cached: int | None = None
    """Prompt tokens that were not computed again."""
    n_response: int
    """Response tokens, EOS included."""
    n_think: int
    """Those up to and including the end of thought; all of them if the thought was not closed."""
    n_answer: int
    n_generated: int
    """All sampled tokens; more than ``n_response`` where some were discarded."""
    n_injected: int = 0
    """Response tokens that were put in and not sampled."""
    finish_reason: str
    """A ``Stop`` value."""
    think_closed: bool
    truncated: bool
    loop_flag: bool
    pred_raw: str | None
    """The answer found in the response."""
    pred_canonical: str | None = None
    """One spelling for all equal answers."""
    gold: str
    extract_source: str | None = None
    """Where the answer stood: ``answer``, or ``think`` for a box in the thought that only ``correct_loose`` counts."""
    verdict: str
    """A ``Verdict`` value."""
    grade_status: str | None = None
    """``ok``, or ``timeout`` and ``crashed`` where the verifier failed."""
    correct: bool
    correct_loose: bool | None = None
    """Right if the last box counts wherever it stands, in a thought or a truncated response as well."""
    trace: dict[str, Any] | None = None
    """What was decoded and read where the response is no plain chain, for the cost model."""
    flops: float | None = None
    """This and the next four: computed for the summary's hardware."""
    kv_read_bytes: float | None = None
    peak_kv_bytes: float | None = None
    latency_b1_s: float | None = None
    gpu_s_b: float | None = None
    """At the largest of the summary's batch sizes."""
    t_arrival: float | None = None
    """This and the next four: measured seconds and joules."""
    t_first: float | None = None
    t_last: float | None = None
    queue_s: float | None = None
    energy_j: float | None = None
    mean_logprob: float | None
    """Mean behaviour log-prob of the sampled tokens, nats."""
    ref_pass_rate: float | None = None
    """How often a reference model solves the problem."""
    level: int | None
    subject: str | None = None
    prompt_text: str
    response_text: str


_IDS = pa.list_(pa.int32())
_EVENTS = pa.list_(pa.struct({"op": pa.string(), "n": pa.int64(), "s": pa.int64(), "shared_id": pa.int64()}))
_TYPES = {
    **dict.fromkeys(("perm", "prompt_token_ids", "response_token_ids"), _IDS),
    **dict.fromkeys(("sample_idx", "level", "stress", "n_prompt", "n_prompt_cached", "n_response"), pa.int32()),
    **dict.fromkeys(("n_think", "n_answer", "n_generated", "n_injected"), pa.int32()),
    **dict.fromkeys(("think_closed", "truncated", "loop_flag", "correct", "correct_loose"), pa.bool_()),
    **dict.fromkeys(("flops", "kv_read_bytes", "peak_kv_bytes", "latency_b1_s", "gpu_s_b"), pa.float64()),
    **dict.fromkeys(("t_arrival", "t_first", "t_last", "queue_s", "energy_j"), pa.float64()),
    **dict.fromkeys(("mean_logprob", "ref_pass_rate"), pa.float64()),
    # Arrow puts the rows of a column in order as one array, and 32-bit offsets end at 2 GiB of text.
    **dict.fromkeys(("prompt_text", "response_text"), pa.large_string()),
    "seed": pa.int64(),
    "trace": pa.struct({"kind": pa.string(), "events": _EVENTS}),
}
_NULLABLE = {f.name for f in fields(Sample) if f.default is None} | {"level", "pred_raw", "mean_logprob"}
SCHEMA = pa.schema(
    [pa.field(f.name, _TYPES.get(f.name, pa.string()), nullable=f.name in _NULLABLE) for f in fields(Sample)]
)
"""Columns of ``samples.parquet``, in order."""
_LATER = {f.name: f.default for f in fields(Sample) if f.default is not MISSING}
"""Columns that files of earlier versions lack, and what they are filled with."""


def to_table(samples: Sequence[Sample]) -> pa.Table:
    """Rows as an Arrow table."""
    columns = [[getattr(sample, name) for sample in samples] for name in SCHEMA.names]
    return pa.table([pa.array(c, t) for c, t in zip(columns, SCHEMA.types, strict=True)], schema=SCHEMA)


def to_samples(table: pa.Table) -> list[Sample]:
    """The rows of a table; token ids are int32 arrays again."""
    rows = table.select(SCHEMA.names).to_pylist()
    for row in rows:
        for name in ("perm", "prompt_token_ids", "response_token_ids"):
            row[name] = None if row[name] is None else np.asarray(row[name], np.int32)
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


def _read(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}; remove it and evaluate again") from error
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if foreign := [name for name in missing if name not in _LATER]:
        raise DataError(f"{path} has no column {foreign[0]!r}; it was not written by laconic's evaluation")
    for name in missing:
        table = table.append_column(name, pa.array([_LATER[name]] * len(table), SCHEMA.field(name).type))
    return table.select(SCHEMA.names).cast(SCHEMA)
