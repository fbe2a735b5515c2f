"""The step beside trl's: on a CPU a tiny model makes both steps, with equal loss and gradients."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch

from laconic.benchmarks import packed_step_trl
from laconic.benchmarks.claim import Claim
from laconic.benchmarks.packed_step_differences import gradients_apart
from laconic.benchmarks.packed_step_trl import SIZES, clear, floor_seconds, measure, works_of
from laconic.train.packing.choose import Price, Work

Measurement = tuple[list[Claim], dict[str, Any], list[weakref.ref[Any]]]


@pytest.fixture(scope="module")
def measurement() -> Measurement:
    """Both whole trainers, once each; raises SystemExit if their losses or gradients differ too much."""
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
    assert difference["loss"] <= 1e-5 and difference["gradient"] <= 1e-5 and difference["attention"] <= 1e-3


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
    monkeypatch.setattr(packed_step_trl, "compare", lambda *_: {"loss": 0.0, "gradient": 0.5})
    with pytest.raises(SystemExit, match="differ"):
        measure("cpu", pairs=1)


def test_a_wrong_gradient_of_one_small_weight_shows() -> None:
    """The norm of all gradients hides it."""
    models = [packed_step_trl.model_of(SIZES["cpu"], "cpu") for _ in range(2)]
    for model in models:
        for name, parameter in model.named_parameters():
            parameter.grad = torch.ones_like(parameter) * (1e-4 if "q_proj" in name else 1.0)
    assert set(gradients_apart(*models).values()) == {0.0}
    models[0].model.layers[1].self_attn.q_proj.weight.grad.mul_(2)
    apart = gradients_apart(*models)
    assert apart["gradient"] < 1e-4 and apart["attention"] == pytest.approx(1.0)


def test_the_figures_of_each_pair_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([1.0, 2.0, 9.0, 3.0])  # in the second pair trl's step is the first
    monkeypatch.setattr(packed_step_trl, "compare", lambda *_: {})
    monkeypatch.setattr(packed_step_trl, "measured", lambda build: (next(taken), 0))
    ratios: list[list[float]] = []
    measure("cpu", pairs=2, write=lambda claims, details: ratios.append(list(claims[0]["samples"])))
    assert ratios == [[2.0], [2.0, 3.0]]
