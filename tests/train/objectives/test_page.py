"""The page on objectives is true: its table of gradient factors is what the losses do."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from loss_inputs import inputs_of, value_and_gradient

from laconic.train.objectives import OBJECTIVES

PAGE = Path(__file__).resolve().parents[3] / "docs" / "methods" / "objectives.md"
ROWS = re.findall(r"^\| `(\w+)`, A ([<>]) 0 \| (.+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
RATIOS = [
    float(cell) for cell in re.search(r"^\| rho \| (.+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)[1].split(" | ")
]


@pytest.mark.parametrize(("name", "sign", "cells"), ROWS, ids=lambda value: str(value)[:8])
def test_a_row_of_the_table_is_what_the_loss_does(name, sign, cells):
    pos, neg = (1.0, 0.0) if sign == ">" else (0.0, -1.0)
    for ratio, cell in zip(RATIOS, cells.split(" | "), strict=True):
        _, (slope,) = value_and_gradient(OBJECTIVES[name](), inputs_of(math.log(ratio) - 1, -1.0, pos=pos, neg=neg))
        assert -slope / (pos + neg) == pytest.approx(float(cell), abs=0.005), f"{name}, A {sign} 0, rho {ratio}"


def test_the_page_names_every_objective():
    assert len(ROWS) == 8 and all(f"| `{name}` |" in PAGE.read_text("utf-8") for name in OBJECTIVES)
