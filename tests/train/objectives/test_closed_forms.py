"""The gradient of every objective in float64 against its closed form, clipped regions included."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from loss_inputs import inputs_of, value_and_gradient

from laconic.train.objectives import OBJECTIVES

Factor = Callable[[float, float], float]
"""Advantage, ratio -> what the advantage is multiplied with in the gradient of the gain along log pi."""
EDGES = (0.8, 1 - 3e-4, 1.0, 1 + 4e-4, 1.2, 1.28, 10.0)
NLL = 0.05


def clipped(low: float, high: float) -> Factor:
    def factor(advantage: float, rho: float) -> float:
        return 0.0 if (rho > 1 + high if advantage > 0 else rho < 1 - low) else rho

    return factor


def gradient_preserving(advantage: float, rho: float) -> float:
    if advantage > 0:
        return min(rho, 1.28)
    return 0.0 if rho > 10 else max(rho, 0.8)


def gated(advantage: float, rho: float) -> float:
    gate = 1 / (1 + math.exp((1.0 if advantage > 0 else 1.05) * (1 - rho)))
    return 4 * gate * (1 - gate) * rho


FACTORS: dict[str, Factor] = {
    "clip": clipped(0.2, 0.2),
    "dapo": clipped(0.2, 0.28),
    "gppo": gradient_preserving,
    "cispo": lambda _, rho: min(rho, 5.0),
    "sapo": gated,
    "gspo": clipped(3e-4, 4e-4),
    "kl_cov": lambda _, rho: rho,
    "ppo": clipped(0.2, 0.2),
    "vcppo": clipped(0.2, 0.2),
    "vapo": clipped(0.2, 0.28),
}


@pytest.mark.parametrize("name", OBJECTIVES)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    advantage=st.floats(-3, 3).filter(lambda a: abs(a) > 1e-3),
    rho=st.one_of(st.floats(1e-3, 40), st.floats(0.7, 1.4), st.floats(0.999, 1.001)),
)
def test_the_gradient_equals_the_closed_form(name: str, advantage: float, rho: float) -> None:
    assume(min(abs(rho - edge) for edge in EDGES) > 1e-7)
    want = -FACTORS[name](advantage, rho) * advantage - NLL
    if name == "kl_cov":
        want += math.copysign(1.0, rho - 1)  # the only token of its pack is the one that is penalised
    token = inputs_of(math.log(rho) - 1.5, -1.5, pos=max(advantage, 0), neg=min(advantage, 0), nll=NLL)
    _, (slope,) = value_and_gradient(OBJECTIVES[name](), token)
    assert slope == pytest.approx(want, rel=1e-9, abs=1e-12)
