"""docs/reading-the-report.md explains what is shown: its tables name numbers, verdicts and plots of the real pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from laconic.eval.pairing import Verdict

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/reading-the-report.md").read_text("utf-8")
SHOWN = [path.read_text("utf-8") for path in sorted((ROOT / "eval").glob("*")) if path.suffix in (".py", ".j2")]
FIRST = [
    cell for cell in re.findall(r"^\| ([^|]+?) \|", PAGE, re.MULTILINE) if cell not in ("column", "number", "plot")
]


@pytest.mark.parametrize("name", FIRST)
def test_what_is_explained_is_shown(name: str) -> None:
    assert any(name in source for source in SHOWN), f"nothing that the report or the tables show is called {name!r}"


def test_every_number_that_only_a_comparison_knows_is_explained() -> None:
    facts = (ROOT / "eval/report_rows.py").read_text("utf-8").partition("def pair_facts")[2].partition("\ndef ")[0]
    titles = re.findall(r'^\s+\(?f?"((?:[a-zA-Z@]|\s|%|\d|\()+)', facts, re.MULTILINE)
    assert len(titles) >= 5
    for title in (title.partition(" (")[0].partition(" with weights")[0].strip() for title in titles):
        assert title in PAGE, f"{title!r} is not explained"


def test_every_verdict_is_explained() -> None:
    assert all(verdict in FIRST for verdict in get_args(Verdict))
