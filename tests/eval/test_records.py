"""Rows of an evaluation: round trip, shards, atomic writes, errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laconic.errors import DataError
from laconic.eval.records import (
    SAMPLES,
    SCHEMA,
    Sample,
    read_samples,
    read_shards,
    remove_shards,
    to_samples,
    to_table,
    write_samples,
    write_shard,
)

ROW = Sample(
    run_id="run",
    benchmark="chain",
    problem_id="chain/0",
    sample_idx=0,
    seed=2**40,
    level=3,
    prompt_token_ids=np.array([4, 5], np.int32),
    response_token_ids=np.array([6, 7, 1], np.int32),
    n_prompt=2,
    n_response=3,
    n_think=1,
    n_answer=2,
    n_generated=3,
    finish_reason="eos",
    think_closed=True,
    truncated=False,
    loop_flag=False,
    verdict="right",
    pred_raw="7",
    gold="7",
    correct=True,
    mean_logprob=-0.25,
    prompt_text="3+4=",
    response_text="<think></think>7 é",
)
EMPTY = replace(
    ROW, sample_idx=1, level=None, response_token_ids=np.empty(0, np.int32), pred_raw=None, mean_logprob=None
)


def same(left: Sample, right: Sample) -> bool:
    pairs = [(getattr(left, name), getattr(right, name)) for name in SCHEMA.names]
    return all(np.array_equal(a, b) and type(a) is type(b) for a, b in pairs)


def test_rows_survive_the_file(tmp_path: Path) -> None:
    write_samples(to_table([ROW, EMPTY]), tmp_path / SAMPLES)
    table = read_samples(tmp_path)
    assert table.schema == SCHEMA
    assert all(same(*pair) for pair in zip(to_samples(table), [ROW, EMPTY], strict=True))
    assert [path.name for path in tmp_path.iterdir()] == [SAMPLES]


def test_texts_of_more_than_two_gigabytes_can_be_put_in_order() -> None:
    # Arrow takes rows of a `string` column from one array, whose 32-bit offsets end at 2 GiB: 40,000 long thoughts.
    for name in ("prompt_text", "response_text"):
        assert pa.types.is_large_string(SCHEMA.field(name).type)


def test_shards_are_numbered_and_the_first_row_of_a_sample_counts(tmp_path: Path) -> None:
    write_shard(tmp_path, to_table([ROW]))
    path = write_shard(tmp_path, to_table([replace(ROW, gold="other"), EMPTY]))
    assert path.name == "samples-00001.parquet"
    found = to_samples(read_shards(tmp_path))
    assert [(row.sample_idx, row.gold) for row in found] == [(0, "7"), (1, "7")]
    (tmp_path / ".tmp-samples.parquet-1").write_bytes(b"half")
    remove_shards(tmp_path)
    assert not list(tmp_path.iterdir())
    assert len(read_shards(tmp_path)) == 0


def test_unusable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no samples at"):
        read_samples(tmp_path)
    (tmp_path / SAMPLES).write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_samples(tmp_path)
    pq.write_table(pa.table({"run_id": ["x"]}), tmp_path / SAMPLES)
    with pytest.raises(DataError, match="no column 'benchmark'"):
        read_samples(tmp_path)


def test_files_of_earlier_versions_are_read_and_filled_up(tmp_path: Path) -> None:
    old = to_table([ROW]).drop_columns(["flops", "perm", "trace", "n_injected", "correct_loose"])
    pq.write_table(old, tmp_path / SAMPLES)
    (row,) = to_samples(read_samples(tmp_path))
    assert (row.flops, row.perm, row.trace, row.n_injected, row.correct_loose) == (None, None, None, 0, None)
    assert same(row, ROW)


def test_a_tree_of_tokens_fits_the_schema(tmp_path: Path) -> None:
    events = [{"op": "decode", "n": 3, "s": 2, "shared_id": None}]
    row = replace(ROW, trace={"kind": "tree", "events": events}, perm=np.array([2, 0, 1], np.int32), n_injected=4)
    write_samples(to_table([row]), tmp_path / SAMPLES)
    (found,) = to_samples(read_samples(tmp_path))
    assert found.trace == row.trace and found.perm is not None and found.perm.tolist() == [2, 0, 1]
