"""``laconic push`` and ``laconic eval`` of what it pushed, each in a process of its own that knows only HF_ENDPOINT."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from laconic.cli import app


def test_the_pushed_id_is_evaluated_from_a_clean_cache_with_the_same_table(
    hub: Any, laconic: Callable[..., Any], evaluated_run: Path
) -> None:
    pushed = laconic("one", "push", str(evaluated_run), "--repo", "brief")
    assert pushed["repo"] == "alice/brief" and pushed["commit"] == hub.repositories["alice/brief"].commits[-1][0]
    there = laconic("two", "eval", "alice/brief", "-n", "12", "-k", "2", "--max-completion", "40")
    here = json.loads((evaluated_run / "evaluation/summary.json").read_text())
    assert here["model"]["weights_hash"] == there["model"]["weights_hash"] and there["model"]["name"] == "brief"
    for block, same in ((here["overall"], there["overall"]), *zip(here["tasks"], there["tasks"], strict=True)):
        assert {name: block[name] for name in ("accuracy", "tokens", "cost")} == {
            name: same[name] for name in ("accuracy", "tokens", "cost")
        }


def test_json_is_all_that_a_script_gets_on_stdout(hub: Any, laconic: Callable[..., Any], adapter_run: Path) -> None:
    result = laconic("one", "push", str(adapter_run), "--repo", "brief", "--merged", "--dry-run")
    assert result["dry_run"] and result["kind"] == "merged model" and hub.repositories == {}
    assert "model.safetensors" in [file["path"] for file in result["files"]]


def test_a_refused_push_is_one_line_and_status_2(hub: Any, plain_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    answer = CliRunner().invoke(app, ["push", str(plain_run), "--repo", "brief"])
    assert answer.exit_code == 2 and answer.stderr.startswith("error: no token for http://127.0.0.1")
    assert answer.stderr.count("\n") == 1


def test_a_failed_push_is_one_line_and_status_1(hub: Any, fault: type, plain_run: Path) -> None:
    hub.faults.append(fault("PUT", "/lfs/", "drop"))
    answer = CliRunner().invoke(app, ["push", str(plain_run), "--repo", "brief", "--json"])
    last = answer.stderr.splitlines()[-1]
    assert answer.exit_code == 1 and last.startswith(f"error: {hub.url} stopped at file 4 of 7, model.safetensors")
    assert "Traceback" not in answer.stderr
