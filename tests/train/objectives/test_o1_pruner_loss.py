"""The loss of O1-Pruner's published training is `gspo` with clip 0.2 on its weights: worked numbers."""

from __future__ import annotations

import math

import pytest
from loss_inputs import inputs_of, value_and_gradient

from laconic.train.objectives import OBJECTIVES

LOSS = OBJECTIVES["gspo"](epsilon_low=0.2, epsilon_high=0.2)


@pytest.mark.parametrize(("weight", "ratio", "loss"), [(1.0, 1.3, -1.2), (-1.0, 0.7, 0.8), (1.0, 0.7, -0.7)])
def test_one_clipped_ratio_per_answer_from_its_mean_log_probs(weight: float, ratio: float, loss: float) -> None:
    # Two tokens whose mean log-ratio is log(ratio), each with half of the answer's weight.
    half, mean = weight / 2, math.log(ratio)
    given = inputs_of(
        [-1.0 + mean - 0.4, -2.0 + mean + 0.4], [-1.0, -2.0], pos=max(half, 0), neg=min(half, 0), row=[0, 0]
    )
    value, _ = value_and_gradient(LOSS, given)
    assert value == pytest.approx(loss, abs=1e-9)
