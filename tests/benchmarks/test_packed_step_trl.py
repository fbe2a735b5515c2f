"""The step beside trl's: on a CPU a tiny model makes both steps, with equal loss and gradients."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

from laconic.benchmarks import packed_step_trl
from laconic.benchmarks.claim import Claim
from laconic.benchmarks.packed_step_trl import SIZES, clear, floor_seconds, measure, works_of
from laconic.train.packing.choose import Price, Work

Measurement = tuple[list[Claim], dict[str, Any], list[weakref.ref[Any]]]


@pytest.fixture(scope="module")
def measurement() -> Measurement:
    """Both whole trainers, once each; raises SystemExit if their losses or gradients differ by more than 1e-5."""
    models: list[weakref.ref[Any]] = []
    make = packed_step_trl.model_of

    def seen(*args: Any) -> Any:
        model = make(*args)
        models.append(weakref.ref(model))
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_step_trl, "model_of", seen)
        return *measure("cpu", pairs=1), models


def test_both_sides_train_and_agree(measurement: Measurement) -> None:
    claims, details, _ = measurement
    assert {claim["id"] for claim in claims} == {"gpu.packed_step_vs_trl", "gpu.packed_step_floor"}
    assert all(claim["kind"] == "finding" and claim["value"] > 0 for claim in claims)
    difference = details["difference"]
    assert set(difference) == {"loss", "gradient"} and max(difference.values()) <= 1e-5


def test_a_side_leaves_no_model_in_memory(measurement: Measurement) -> None:
    clear()
    models = measurement[2]
    assert len(models) == 4 and [model() for model in models] == [None] * 4


def test_the_sides_do_the_work_that_the_figures_say() -> None:
    works = works_of(SIZES["cuda"])
    assert works["trl"].tokens == 16 * 16 * 2048
    # Whole groups have 17,408 tokens; in passes of 16,384 each group is cut once and its prompt stands there twice.
    assert works["ours"].tokens == 16 * (1024 + 16 * 1024) + 16 * 1024
    assert works["ours"].scored == works["trl"].scored == 16 * 16 * 1024
    assert SIZES["cuda"].budget == 16_384


def test_the_floor_counts_forward_and_backward() -> None:
    work = Work(tokens=10, padding=2, scored=5, pairs=100, calls=7)
    price = Price(token=4.0, scored=2.0, pair=1.0, tree_pair=9.0, call=1e9)
    assert floor_seconds(work, price) * packed_step_trl.PEAK_FLOPS == pytest.approx(3 * (48 + 10 + 100))


def test_results_that_differ_end_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_step_trl, "largest_difference", lambda *_: {"loss": 0.0, "gradient": 0.5})
    with pytest.raises(SystemExit, match="differ"):
        measure("cpu", pairs=1)
