"""What docs/quickstart.md shows of the terminal is what the terminal shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from laconic.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/quickstart.md").read_text("utf-8")


def test_the_settings_in_words_are_those_of_the_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```\n(quickstart: .*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    answer = CliRunner().invoke(app, ["train", "configs/quickstart.yaml", "--dry-run"])
    assert answer.exit_code == 0
    printed = answer.stdout.splitlines()
    for line, shown in zip(block.splitlines(), printed, strict=False):
        assert shown.startswith(line.removesuffix("...").rstrip()), f"the page has {line!r}, printed is {shown!r}"
    assert len(block.splitlines()) == len(printed) - 1, "all but the last line is on the page"
