"""README and docs point only at what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)[^)]*\)|<(?:img|a)[^>]+(?:src|href)=\"(?!https?:|#)([^\"#]+)")
SETTINGS = re.compile(r"\bconfigs/[\w./-]+\.yaml\b")


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_setting_files_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    broken = [
        target for pair in LINK.findall(text) for target in pair if target and not (path.parent / target).exists()
    ]
    broken += [name for name in SETTINGS.findall(text) if not (ROOT / name).exists()]
    assert not broken, f"{path.name} points at {broken}"
