"""Worked numbers and edges of DAPO's soft overlong punishment."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from laconic.errors import ConfigError, DataError
from laconic.rewards.shaping import OverlongSoft, Responses

PUBLISHED = OverlongSoft(buffer=4096, factor=1.0, wrong=-1.0, all_wrong_groups=True)
LENGTH_G = [10_000, 16_384, 18_432, 20_480]


def test_the_ramp_over_the_last_4096_tokens() -> None:
    assert (PUBLISHED(Responses.of([1] * 4, LENGTH_G, cap=20_480)) - 1).tolist() == [0, 0, -0.5, -1]
    assert PUBLISHED(Responses.of([0] * 4, LENGTH_G, cap=20_480)).tolist() == [-1, -1, -1.5, -2]


def test_the_default_is_the_published_reward_in_mixed_groups_up_to_scale_and_offset() -> None:
    rows = Responses.of([1, 0, 1, 0], LENGTH_G, cap=20_480)
    np.testing.assert_allclose(OverlongSoft()(rows), (PUBLISHED(rows) + 1) / 2, rtol=0, atol=1e-12)


def test_the_default_buffer_is_a_fifth_of_the_cap() -> None:
    assert OverlongSoft()(Responses.of([1, 1, 1], [512, 576, 640], cap=640)).tolist() == [1.0, 0.75, 0.5]


def test_an_all_wrong_group_is_not_paid_for_being_short() -> None:
    rows = Responses.of([0, 0], [100, 640], cap=640)
    assert OverlongSoft()(rows).tolist() == [0.0, 0.0]
    assert OverlongSoft(all_wrong_groups=True)(rows).tolist() == [0.0, -0.5]


def test_a_right_response_at_the_cap_never_scores_below_a_short_wrong_one() -> None:
    assert OverlongSoft(factor=1.0)(Responses.of([1, 0], [640, 5], cap=640)).tolist() == [0.0, 0.0]
    with pytest.raises(ConfigError, match="factor is 1.5 .* at most 1 - wrong = 1"):
        OverlongSoft(factor=1.5)
    assert OverlongSoft(factor=1.5, wrong=-1.0).range().dominant


def test_it_needs_the_cap_and_a_buffer_within_it() -> None:
    with pytest.raises(DataError, match="cap"):
        OverlongSoft()(Responses.of([1], [5]))
    with pytest.raises(ConfigError, match="buffer is 4096 .* 640 tokens"):
        PUBLISHED.check(SimpleNamespace(max_completion=640))
    for settings in ({"buffer": 0}, {"wrong": 0.5}, {"factor": 0.0}):
        with pytest.raises(ConfigError, match=f"overlong_soft.{next(iter(settings))}"):
            OverlongSoft(**settings)  # type: ignore[arg-type]
