"""The least difference a test set certifies: the worked figures."""

from __future__ import annotations

import pytest

from laconic.errors import ConfigError
from laconic.eval.power import least_difference


@pytest.mark.parametrize(
    ("n", "k", "within", "points"),
    [
        (30, 1, 0.1, 23.4),
        (30, 8, 0.1, 9.6),
        (30, 32, 0.1, 6.5),
        (30, 64, 0.1, 5.9),
        (500, 1, 0.05, 4.2),
        (500, 4, 0.05, 2.3),
    ],
)
def test_worked_figures(n: int, k: int, within: float, points: float) -> None:
    assert round(100 * least_difference(n, k, within=within), 1) == points


def test_more_samples_cannot_make_up_for_few_problems() -> None:
    assert least_difference(30, 10**6) > 0.05 > least_difference(100, 64)
    with pytest.raises(ConfigError, match="0 samples"):
        least_difference(30, 0)
