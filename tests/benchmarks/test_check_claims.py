"""Every way a claim can fail does fail."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from laconic.benchmarks.check_claims import BARS, Row, check
from laconic.benchmarks.claim import source_hash

ROOT = Path(__file__).resolve().parents[2]
BAR = {"x.ratio": {"floor": 2.0, "script": "x"}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "engine.py").write_text("fast = True\n")
    return tmp_path


def claim(root: Path, **changes: Any) -> dict[str, Any]:
    usual = {
        "id": "x.ratio",
        "kind": "floor",
        "value": 2.0,
        "spread": [1.9, 2.1],
        "peer": "other 1.0",
        "equal": True,
        "sources": {"engine.py": source_hash("engine.py", root)},
        "samples": [1.9, 2.0, 2.1],
        "command": "python benchmarks/x.py",
    }
    return {**usual, **changes}


def only(rows: list[Row]) -> Row:
    (row,) = rows
    return row


def test_a_floor_is_met_at_its_value(root: Path) -> None:
    row = only(check(BAR, [claim(root)], root))
    assert row.ok and row.state == "holds" and row.value == "2 [1.9, 2.1]"


@pytest.mark.parametrize(("kind", "value", "holds"), [("ceiling", 0.5, True), ("ceiling", 0.51, False)])
def test_a_ceiling_is_kept_at_its_value(root: Path, kind: str, value: float, holds: bool) -> None:
    bars = {"x.ratio": {"ceiling": 0.5, "script": "x"}}
    assert only(check(bars, [claim(root, kind=kind, value=value, samples=[value])], root)).ok is holds


def test_a_shortfall_fails(root: Path) -> None:
    row = only(check(BAR, [claim(root, value=1.99, samples=[1.99])], root))
    assert not row.ok and row.state == "FALLS SHORT" and "python benchmarks/x.py" in row.remedy


def test_a_missing_claim_fails_and_names_its_script(root: Path) -> None:
    row = only(check(BAR, [], root))
    assert not row.ok and row.state == "MISSING" and row.remedy == "python benchmarks/x.py"


@pytest.mark.parametrize("equal", [False, None])
def test_unequal_or_unchecked_results_fail(root: Path, equal: bool | None) -> None:
    row = only(check(BAR, [claim(root, equal=equal)], root))
    assert not row.ok and row.state == "UNEQUAL"


def test_a_changed_source_makes_a_claim_stale_and_changing_it_back_mends_it(root: Path) -> None:
    measured = claim(root)
    (root / "engine.py").write_text("fast = False\n")
    row = only(check(BAR, [measured], root))
    assert not row.ok and row.state == "STALE" and "engine.py" in row.remedy
    (root / "engine.py").write_text("fast = True\n")
    assert only(check(BAR, [measured], root)).ok


def test_a_removed_source_makes_a_claim_stale(root: Path) -> None:
    measured = claim(root)
    (root / "engine.py").unlink()
    assert only(check(BAR, [measured], root)).state == "STALE"


def test_a_value_that_is_not_the_median_of_its_samples_fails(root: Path) -> None:
    assert only(check(BAR, [claim(root, value=2.5)], root)).state == "NOT ITS MEDIAN"


def test_a_finding_cannot_meet_a_bar_and_a_floor_needs_one(root: Path) -> None:
    assert only(check(BAR, [claim(root, kind="finding")], root)).state == "CLAIMED AS FINDING"
    assert only(check({}, [claim(root)], root)).state == "CLAIMED AS FLOOR"


def test_a_finding_holds_whatever_it_says_but_may_be_stale(root: Path) -> None:
    found = claim(root, id="y.found", kind="finding", value=-7.0, samples=[-7.0], peer=None, equal=None)
    assert only(check({}, [found], root)).state == "finding"
    (root / "engine.py").write_text("changed\n")
    assert only(check({}, [found], root)).state == "STALE"


@pytest.mark.parametrize(("value", "status"), [(2.0, 0), (1.0, 1)])
def test_the_exit_status_says_whether_all_claims_hold(tmp_path: Path, value: float, status: int) -> None:
    (tmp_path / "bars.toml").write_text('scripts = []\n[bars]\n"x.ratio" = { floor = 2.0, script = "x" }\n')
    measured = claim(tmp_path, value=value, samples=[value])
    measured["sources"] = {"benchmarks/claim.py": source_hash("benchmarks/claim.py")}
    record = {"command": "python benchmarks/x.py", "claims": [measured]}
    (tmp_path / "x.json").write_text(json.dumps(record))
    command = [sys.executable, str(ROOT / "benchmarks" / "check_claims.py")]
    answer = subprocess.run(
        [*command, "--bars", str(tmp_path / "bars.toml"), "--results", str(tmp_path)], capture_output=True, text=True
    )
    assert answer.returncode == status, answer.stderr
    assert "x.ratio" in answer.stdout and f"{1 - status} of 1 hold" in answer.stdout


def test_every_bar_names_one_limit_and_a_script_that_is_run() -> None:
    declared = tomllib.loads(BARS.read_text())
    assert declared["bars"]
    for name, bar in declared["bars"].items():
        assert len({"floor", "ceiling"} & set(bar)) == 1, name
        assert bar["script"] in declared["scripts"], name
    missing = [script for script in declared["scripts"] if not (BARS.parent / f"{script}.py").exists()]
    assert not missing, f"no such script in benchmarks/: {missing}"
