"""Updates on trees beside updates on rows, in tiny sizes: every claim is made, both sides agree, memory is memory."""

from __future__ import annotations

import json
import math
import statistics
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from laconic.benchmarks import packed_step
from laconic.benchmarks.claim import ROOT, write_claims
from laconic.benchmarks.packed_step import Bench, Shape, agree, answers, level_tree, model_of

SMALL = dict(hidden=32, layers=2, heads=2, ffn=64, vocabulary=32)
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is not tested: it is read from Linux's /proc"
)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The benchmark sets them for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@needs_proc
def test_every_claim_with_a_bar_is_measured_and_both_sides_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, group = Shape("tree", level_tree(100, (2, 4), 100)), Shape("group", answers(100, [100] * 6))
    sizes: dict[str, Any] = {"TREE": tree, "GROUP": group, "LARGE_SWEEP": (group,), "SMALL_SWEEP": (tree, group)}
    sizes |= {"HOST": Shape("host", answers(20, [9, 5, 7]), 3), "BUDGETS": (1024, 4096), "SHORT_S": 1e-9}
    sizes |= {"model_of": lambda **_: model_of(**SMALL), "write_claims": partial(write_claims, folder=tmp_path)}
    for name, value in sizes.items():
        monkeypatch.setattr(packed_step, name, value)
    monkeypatch.setattr(sys, "argv", ["packed_step.py", "--pairs", "2"])
    packed_step.main()
    record = json.loads((tmp_path / "packed_step.json").read_text())
    bars = tomllib.loads((ROOT / "benchmarks" / "bars.toml").read_text())["bars"]
    kinds = {
        name: "floor" if "floor" in bar else "ceiling" for name, bar in bars.items() if bar["script"] == "packed_step"
    }
    assert {claim["id"]: claim["kind"] for claim in record["claims"]} == kinds
    for claim in record["claims"]:
        assert claim["value"] > 0 and claim["equal"] is not False, claim
        assert claim["value"] == pytest.approx(statistics.median(claim["samples"]))
        assert len(claim["samples"]) == (1 if claim["id"] == "pack.peak_vs_rows" else 2)
    swept = [shape for side in ("large", "small") for shape in record["details"][side].values() if "chosen" in shape]
    assert len(swept) == 3 and all(shape["threads"].keys() == {"rows", "trees"} for shape in swept)
    (worst,) = [claim for claim in record["claims"] if claim["id"] == "pack.worst_auto_choice"]
    assert worst["value"] == pytest.approx(min(shape["worth"] for shape in swept))


def test_short_updates_are_timed_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    def best(self: Bench, rows: Any, side: str, budgets: Any) -> tuple[int, int, dict[str, float]]:
        return 64, 1, {"one": long, "another": 2 * long}

    monkeypatch.setattr(Bench, "best", best)
    monkeypatch.setattr(Bench, "seconds", lambda *_: long)
    for long, times in ((packed_step.SHORT_S / 4, 12), (packed_step.SHORT_S * 2, 3)):
        threads, seconds = packed_step.timed(Bench(model_of(**SMALL)), [], 3, 64)
        assert threads == {"rows": 1, "trees": 1} and seconds == {"rows": [long] * times, "trees": [long] * times}


def test_trees_hold_fewer_tokens_than_rows_and_both_sides_learn() -> None:
    bench = Bench(model_of(**SMALL))
    rows = bench.rows(Shape("tree", level_tree(10, (2, 4), 10)))
    packs = {side: bench.packs(rows, side, 64) for side in packed_step.SIDES}
    assert sum(map(len, packs["trees"])) < sum(map(len, packs["rows"])) == 4 * 30
    for side in packed_step.SIDES:
        bench.update(rows, side, 64)
        assert float(torch.stack([p.grad.norm() for p in bench.model.parameters() if p.grad is not None]).norm()) > 0


@pytest.mark.parametrize("apart", [1.0, math.nan])
def test_sides_that_differ_under_one_budget_do_not_agree(monkeypatch: pytest.MonkeyPatch, apart: float) -> None:
    def difference(self: Bench, rows: Any, budget: int) -> dict[str, float]:
        return {"loss": 1e-7, "gradient": apart if budget == 2 else 1e-7}

    monkeypatch.setattr(Bench, "_difference", difference)
    bench = Bench(model_of(**SMALL))
    assert agree(bench.difference([], [1, 3])) and not agree(bench.difference([], [1, 2, 3]))


@needs_proc
def test_memory_that_is_free_on_the_heap_hides_none_that_an_update_needs() -> None:
    bench = Bench(model_of(**SMALL))
    rows = bench.rows(Shape("group", answers(100, [300] * 8)))
    bench.update(rows, "rows", 4096)  # what the first one leaves for good is not an update's
    alone = bench.peak(rows, "rows", 4096)
    blocks = [torch.ones(16_000) for _ in range(2000)]  # 64 kB each, so on the heap and not in pages of their own
    last = blocks[-1]  # the heap can't shrink below it
    del blocks
    after = bench.peak(rows, "rows", 4096)
    assert alone > 2**22 and after > alone / 2, (alone, after, last.sum())
