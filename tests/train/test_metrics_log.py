"""metrics.jsonl: each step once, whatever was torn."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import DataError
from laconic.train.metrics_log import MetricsLog, read_metrics


def write(path: Path, *steps: int, loss: float = 0.5) -> None:
    metrics = MetricsLog(path)
    for step in steps:
        metrics.write({"step": step, "loss": loss})
    metrics.close()


def steps_in(path: Path) -> list[int]:
    return [record["step"] for record in read_metrics(path)]


def test_a_line_can_be_read_as_soon_as_it_is_written(tmp_path: Path) -> None:
    metrics = MetricsLog(tmp_path / "new" / "metrics.jsonl")
    metrics.write({"step": 1, "loss": 0.1})
    assert read_metrics(metrics.path) == [{"step": 1, "loss": 0.1}]
    metrics.sync()
    metrics.close()


def test_numbers_come_back_bit_for_bit_and_what_is_not_finite_as_null(tmp_path: Path) -> None:
    metrics = MetricsLog(tmp_path / "metrics.jsonl")
    third = np.float32(1) / np.float32(3)
    metrics.write(
        {"step": 1, "third": third, "nan": float("nan"), "inf": np.inf, "deep": {"x": [-np.inf, np.int64(3)]}}
    )
    metrics.close()
    assert json.loads(metrics.path.read_text()) == {
        "step": 1, "third": float(third), "nan": None, "inf": None, "deep": {"x": [None, 3]}
    }  # fmt: skip


def test_going_on_from_a_step_drops_the_later_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 1, 2, 3, 4)
    head = path.read_bytes().splitlines(keepends=True)[:2]
    metrics = MetricsLog(path)
    metrics.drop_after(2)
    assert path.read_bytes() == b"".join(head)
    metrics.write({"step": 3, "loss": 0.25})
    metrics.close()
    assert steps_in(path) == [1, 2, 3]
    assert list(tmp_path.iterdir()) == [path]


def test_a_step_is_never_written_twice(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", 1, 2)
    with pytest.raises(ValueError, match="step 2 cannot follow step 2"):
        write(tmp_path / "metrics.jsonl", 2)
    with pytest.raises(ValueError, match="needs an integer step, got None"):
        MetricsLog(tmp_path / "metrics.jsonl").write({"loss": 1.0})


def test_a_gap_before_the_resumed_step_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "metrics.jsonl", 1, 2)
    with caplog.at_level(logging.WARNING):
        MetricsLog(tmp_path / "metrics.jsonl").drop_after(5)
    assert "ends at step 2 but the run goes on from 5" in caplog.text


def test_a_missing_file_and_a_broken_middle_line_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(DataError, match="no metrics at"):
        read_metrics(path)
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(DataError, match="line 2 of"):
        read_metrics(path)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(lines=st.integers(0, 6), torn=st.integers(0, 400), resume=st.integers(0, 7))
def test_torn_anywhere_and_resumed_anywhere_no_step_is_there_twice(lines: int, torn: int, resume: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "metrics.jsonl"
        write(path, *range(1, lines + 1), loss=1 / 3)
        content = path.read_bytes() if path.exists() else b""
        path.write_bytes(content[:torn])
        whole = content[:torn].count(b"\n")
        assert steps_in(path) == list(range(1, whole + 1))
        metrics = MetricsLog(path)
        metrics.drop_after(resume)
        last = min(whole, resume)
        assert metrics.last_step == (last or None)
        metrics.write({"step": resume + 1})
        metrics.close()
        assert steps_in(path) == [*range(1, last + 1), resume + 1]
