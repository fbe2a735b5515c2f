"""Worked numbers of A-DLP: the price per token, and how it moves."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from laconic.errors import ConfigError
from laconic.rewards.shaping import Responses
from laconic.rewards.shaping.adaptive_lagrangian import AdaptiveLagrangian

PUBLISHED = AdaptiveLagrangian(target=0.62, max_penalty=None, gate="none")


def judged(right: int, of: int, state: dict) -> Responses:
    return Responses.of([True] * right + [False] * (of - right), [100] * of, state=state)


def test_the_price_rises_above_the_target_accuracy_and_falls_below_it() -> None:
    assert PUBLISHED.next_state(judged(7, 10, PUBLISHED.first_state()))["lam"] == pytest.approx(0.00108, abs=1e-12)
    assert PUBLISHED.next_state(judged(5, 10, PUBLISHED.first_state()))["lam"] == pytest.approx(0.00088, abs=1e-12)


def test_the_price_never_falls_below_zero() -> None:
    state = {"lam": 1e-4, "target": 0.62}
    assert PUBLISHED.next_state(judged(0, 10, state)) == {"lam": 0.0, "target": 0.62}


def test_published_rewards_pay_the_price_for_every_token() -> None:
    rows = Responses.of([1, 1, 0, 0], [100, 2000, 100, 2000], state=PUBLISHED.first_state())
    assert PUBLISHED(rows) == pytest.approx([0.9, -1.0, -0.1, -2.0], abs=1e-12)
    assert set(PUBLISHED.exceptions) == {"dominance", "all_wrong"}


def test_by_default_right_responses_alone_pay_and_keep_a_tenth() -> None:
    shaping = AdaptiveLagrangian()
    rows = Responses.of([1, 1, 0, 0], [100, 2000, 100, 2000], state=shaping.first_state())
    assert shaping(rows) == pytest.approx([0.9, 0.1, 0.0, 0.0], abs=1e-12)
    assert shaping.range().dominant and not shaping.exceptions


def test_without_a_target_the_first_generation_sets_it() -> None:
    shaping = AdaptiveLagrangian()
    state = shaping.next_state(judged(6, 8, shaping.first_state()))
    assert state == {"lam": 1e-3, "target": 0.75}
    assert shaping.next_state(judged(8, 8, state)) == {"lam": 1e-3 + 1e-3 * 0.25, "target": 0.75}


def test_a_resumed_run_goes_on_with_the_same_price_to_the_last_bit() -> None:
    shaping, rng = AdaptiveLagrangian(), np.random.default_rng(0)
    state = resumed = shaping.first_state()
    for _ in range(20):
        rows = judged(int(rng.integers(0, 65)), 64, state)
        state = shaping.next_state(rows)
        resumed = json.loads(json.dumps(shaping.next_state(replace(rows, state=resumed))))
        assert resumed == state


@pytest.mark.parametrize(
    "settings",
    [{"start": -1.0}, {"start": 0.0, "eta": 0.0}, {"target": 1.5}, {"max_penalty": 1.0}, {"gate": "sign_split"}],
)
def test_settings_that_break_an_invariant_or_do_nothing_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"adaptive_lagrangian.{next(iter(settings))}"):
        AdaptiveLagrangian(**settings)  # type: ignore[arg-type]
