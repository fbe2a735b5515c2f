"""The figures in ``docs/packing.md`` are computed, and its picture of the mask is drawn."""

from __future__ import annotations

import re

import numpy as np
import pytest

from laconic.kernels.tree_layout import TreeLayout
from laconic.train.objectives import OBJECTIVES


@pytest.fixture(scope="module")
def page(repo_root) -> str:
    return (repo_root / "docs" / "packing.md").read_text(encoding="utf-8")


def test_the_picture_is_the_mask_of_the_table_above_it(page):
    names, arrays = "PPAABBCD", {}
    for line in page.splitlines():
        if match := re.match(r"\| `(pos|sub_end|pred)`.*?\| (.*) \|$", line):
            arrays[match[1]] = [int(cell) for cell in match[2].split(" | ")]
    layout = TreeLayout.of(arrays["pos"], arrays["sub_end"], arrays["pred"])
    drawn = ["  " + " ".join(names)]
    for name, seen in zip(names, layout.mask(), strict=True):
        drawn.append(name + " " + " ".join("x" if one else "." for one in seen))
    (picture,) = re.findall(r"```mask\n(.*?)\n```", page, re.DOTALL)
    assert picture.splitlines() == drawn


def test_two_weights_give_the_sum_over_rows_and_one_does_not(page):
    ratio, advantages = 1.3, np.array([1, -0.5, 0.25])
    rows = np.minimum(ratio * advantages, np.clip(ratio, 0.8, 1.2) * advantages).sum()
    two = advantages.clip(min=0).sum() * min(ratio, 1.2) + advantages.clip(max=0).sum() * max(ratio, 0.8)
    one = min(ratio * advantages.sum(), np.clip(ratio, 0.8, 1.2) * advantages.sum())
    assert (rows, two, one) == pytest.approx((0.85, 0.85, 0.9)) and "= 0.85" in page and "= 0.90" in page


def test_the_table_of_ratios_is_right(page):
    def flat(group, prompt, answer):
        return group * (prompt + answer) / (prompt + group * answer)

    ratios = [flat(16, 256, 256), flat(8, 100, 1536), 8 * (100 + 3 * 512) / (100 + 14 * 512), flat(16, 1024, 8192)]
    table = re.findall(r"^\| (?:flat|binary).* \| (\d\.\d\d) \|$", page, re.MULTILINE)
    assert table == [f"{ratio:.2f}" for ratio in ratios]


def test_every_objective_is_named_on_its_side(page):
    packs, rows = re.search(r"own ratio:(.*?)It doesn't(.*?)These are", page, re.DOTALL).groups()
    for name, objective in OBJECTIVES.items():
        assert f"`{name}`" in (packs if objective.packs == "exact" else rows)
