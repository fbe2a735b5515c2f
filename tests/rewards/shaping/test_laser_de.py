"""Worked numbers of the bonus for exploring, and the test for repetition."""

from __future__ import annotations

import numpy as np
import pytest

from laconic.errors import ConfigError, DataError
from laconic.rewards.shaping import Responses
from laconic.rewards.shaping.laser_d import BANDS
from laconic.rewards.shaping.laser_de import LaserDE, repeats

PUBLISHED = LaserDE(wrong=-0.5, all_wrong_groups=True)


def group(right_N: list[int], ids_N: list[list[int]], target: int, truncated_N: list[int] | None = None) -> Responses:
    return Responses.of(
        right_N,
        [len(ids) for ids in ids_N],
        ids_N=tuple(np.array(ids, np.int32) for ids in ids_N),
        truncated_N=np.array(truncated_N or [0] * len(ids_N), bool),
        state={"targets": dict.fromkeys(BANDS, target)},
    )


def fresh(length: int) -> list[int]:
    """A response without repetition."""
    return list(range(length))


def test_published_rewards() -> None:
    lengths = [1500, 3000, 1000, 3000]
    assert PUBLISHED(group([1, 1, 0, 0], [fresh(n) for n in lengths], 2048)).tolist() == [1.5, 1.0, -0.5, 0.0]


def test_a_wrong_response_that_repeats_itself_or_hits_the_cap_is_not_paid() -> None:
    ids_N = [fresh(3000), [1, 2, 3, 4, 5] * 600, fresh(3000), fresh(10)]
    assert PUBLISHED(group([0, 0, 0, 1], ids_N, 2048, [0, 0, 1, 0])).tolist() == [0.0, -0.5, -0.5, 1.5]


def test_by_default_a_group_without_a_right_response_is_not_paid() -> None:
    ids_N = [fresh(300), fresh(10)]
    assert LaserDE()(group([0, 0], ids_N, 100)).tolist() == [0.0, 0.0]
    assert LaserDE()(group([0, 1], ids_N, 100)).tolist() == [0.5, 1.5]
    assert LaserDE(all_wrong_groups=True)(group([0, 0], ids_N, 100)).tolist() == [0.5, 0.0]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1, 2] * 4, False),  # 8 tokens: too short to tell
        ([1, 2, 3, 4, 5, 6, 7, 1, 2], False),  # twice, but 7 apart where less than 3 counts
        ([1, 2, 1, 2, 3, 4, 5, 6, 7], True),
        ([*range(20), 7, 7, 7, 7], True),  # n = 2: a repeated token counts
        ([*range(40), 7, 7, 7, 7, 7], False),  # n = 3: it does not
        ([*range(40), 7, 7, 7, 7, 7, 7, 7], True),  # but six of a kind occur twice, overlapping
        ([*range(40), *range(30, 33)], True),
        ([*range(60), *range(3)], False),  # 60 apart where less than 21 counts, and six tokens are not repeated
        ([*range(60), *range(6)], True),  # six are
        ([*range(198), 100, 101, 102, 103], False),  # from 200 tokens on three times, or eight tokens twice
        ([*range(198), *[100, 101, 102, 103] * 2], True),
        ([*range(198), *range(150, 158)], True),
        (list(range(500)), False),
        ([], False),
    ],
)
def test_repetition(ids: list[int], expected: bool) -> None:
    assert repeats(ids) is expected


def brute_force(ids: list[int]) -> bool:
    """The definition, slowly: look at every suffix."""
    length = len(ids)
    n, enough = 2 if length < 30 else 3 if length < 100 else 4, 2 if length < 200 else 3
    if length <= 8:
        return False
    for start in range(length - n + 1):
        gram = ids[start : start + n]
        places = [i for i in range(start, length - n + 1) if ids[i : i + n] == gram]
        close = any(b - a < length // 3 for a, b in zip(places, places[1:], strict=False))
        if (n == 2 or len({*gram}) > 1) and len(places) >= enough and close:
            return True
    grams = [tuple(ids[i : i + 2 * n]) for i in range(length - 2 * n + 1)]
    return length >= 4 * n and len({*grams}) < len(grams)


def test_repetition_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(300):
        ids = rng.integers(0, rng.integers(2, 60), rng.integers(0, 260)).tolist()
        found.add(repeats(ids))
        assert repeats(ids) == brute_force(ids)
    assert found == {True, False}


def test_tokens_are_needed() -> None:
    with pytest.raises(DataError, match="ids_N"):
        LaserDE()(Responses.of([1], [5], state=LaserDE().first_state()))


def test_a_bonus_that_lifts_wrong_responses_to_right_ones_is_refused() -> None:
    assert PUBLISHED.range().dominant and LaserDE().range().dominant
    with pytest.raises(ConfigError, match="laser_de.bonus"):
        LaserDE(bonus=1.0)
