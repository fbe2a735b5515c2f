"""Measuring in turns, and writing a claim down."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from laconic.benchmarks.claim import interleaved, machine, median_and_spread, source_hash, write_claims


def claim(**changes: Any) -> Any:
    usual = {
        "id": "x.ratio",
        "kind": "floor",
        "value": 2.0,
        "spread": [1.9, 2.1],
        "peer": "other 1.0",
        "equal": True,
        "sources": ["benchmarks/claim.py"],
    }
    return {**usual, **changes}


def test_sides_take_turns_and_the_order_turns_round() -> None:
    calls: list[str] = []

    def side(name: str, figure: float) -> Any:
        return lambda: calls.append(name) or figure

    figures = interleaved({"ours": side("ours", 1.0), "peer": side("peer", 2.0)}, pairs=3)
    assert calls == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert figures == {"ours": [1.0] * 3, "peer": [2.0] * 3}


def test_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="pairs is 0"):
        interleaved({"ours": lambda: 1.0}, pairs=0)


def test_the_spread_is_lowest_and_highest() -> None:
    assert median_and_spread([3.0, 1.0, 2.0]) == (2.0, [1.0, 3.0])


def test_the_machine_is_described_without_importing_torch() -> None:
    described = machine()
    assert described["cores"] >= 1 and described["memory_gb"] > 0 and described["torch"]
    code = "import sys; from laconic.benchmarks.claim import machine; machine(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_claim_is_written_whole_with_the_hash_of_its_sources(tmp_path: Path) -> None:
    path = write_claims("x", "python benchmarks/x.py", [claim()], {"note": 1}, folder=tmp_path)
    record = json.loads(path.read_text())
    assert path.name == "x.json" and [file.name for file in tmp_path.iterdir()] == ["x.json"]
    assert record["claims"][0]["sources"] == {"benchmarks/claim.py": source_hash("benchmarks/claim.py")}
    assert {"name", "command", "date", "commit", "machine", "claims", "details"} == set(record)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": float("nan")}, "finite"),
        ({"equal": None}, "agreed"),
        ({"kind": "bar"}, "floor, ceiling, finding"),
        ({"sources": []}, "no file matches"),
        ({"sources": ["no/such/file.py"]}, "no/such/file.py"),
    ],
)
def test_an_unusable_claim_is_refused_and_leaves_the_old_file(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write_claims("x", "c", [claim()], {}, folder=tmp_path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        write_claims("x", "c", [claim(**changes)], {}, folder=tmp_path)
    assert path.read_bytes() == before


def test_a_pattern_notices_changed_added_and_removed_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.py").write_text("1")
    first = source_hash("a/**/*.py", tmp_path)
    (tmp_path / "a" / "two.py").write_text("2")
    second = source_hash("a/**/*.py", tmp_path)
    (tmp_path / "a" / "one.py").write_text("3")
    third = source_hash("a/**/*.py", tmp_path)
    (tmp_path / "a" / "two.py").unlink()
    (tmp_path / "a" / "one.py").write_text("1")
    assert len({first, second, third}) == 3 and source_hash("a/**/*.py", tmp_path) == first
    assert source_hash("b/*.py", tmp_path) is None
