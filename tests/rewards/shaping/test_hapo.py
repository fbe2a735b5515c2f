"""Worked numbers of HAPO's length reward, and how its history goes on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from laconic.errors import ConfigError
from laconic.rewards.shaping import Responses
from laconic.rewards.shaping.hapo import Hapo

LENGTHS = [500, 1000, 1500, 2000, 3000]
KNOWN = {"history": {"p": [1000.0, 1.0]}}


def responses(right: list[int], length: list[int], state: dict, problem: str = "p") -> Responses:
    return Responses.of(right, length, problem_N=(problem,) * len(right), state=state)


def near(*values: float) -> object:
    return pytest.approx(values, abs=5e-5)


def test_cosine_of_right_and_of_wrong_responses_against_a_history_of_1000() -> None:
    shaping = Hapo(gate="sign_split")
    right = shaping(responses([1] * 5, LENGTHS, KNOWN))
    wrong = shaping(responses([0] * 5, LENGTHS, KNOWN))
    assert right - 1 == near(0.7071, 0, -0.7, -0.7, -0.7)
    assert wrong == near(0, 0, -0.7071, -1, -1)


def test_linear_of_right_and_of_wrong_responses_against_a_history_of_1000() -> None:
    shaping = Hapo(curve="linear", gate="sign_split")
    lengths = [500, 1050, 1500, 2000, 3000]
    right = shaping(responses([1] * 5, lengths, KNOWN))
    wrong = shaping(responses([0] * 5, lengths, KNOWN))
    assert right - 1 == near(0.5, 0, -0.4, -0.7, -0.7)
    assert wrong == near(0, 0, -0.4, -0.9, -1)


def test_an_empty_right_response_gets_the_whole_weight() -> None:
    assert Hapo(weight=0.5)(responses([1], [0], KNOWN)) == near(1.5)


def test_by_default_wrong_responses_keep_zero() -> None:
    assert Hapo()(responses([0] * 5, LENGTHS, KNOWN)).tolist() == [0.0] * 5
    assert Hapo()(responses([1, 0], [500, 3000], KNOWN)) == near(1.7071, 0)


@pytest.mark.parametrize("state", [{"history": {}}, {"history": {"p": [0.0, 1.0]}}])
@pytest.mark.parametrize("curve", ["cosine", "linear"])
def test_without_a_history_and_with_one_of_zero_length_has_no_part(curve: str, state: dict) -> None:
    shaping = Hapo(curve=curve, gate="sign_split")  # type: ignore[arg-type]
    assert shaping(responses([1, 0, 1], [5, 500, 50_000], state)).tolist() == [1.0, 0.0, 1.0]


def test_rewards_of_a_generation_stand_on_the_history_before_it() -> None:
    shaping = Hapo()
    first = responses([1, 1, 0], [800, 600, 100], shaping.first_state())
    assert shaping(first).tolist() == [1.0, 1.0, 0.0]
    after = shaping.next_state(first)
    assert after == {"history": {"p": [600.0, 1.0]}}
    assert first.state == {"history": {}}
    assert shaping(replace(first, state=after))[1] == pytest.approx(1.0, abs=1e-12)


def test_the_shortest_right_length_stays_and_problems_without_one_keep_theirs() -> None:
    shaping = Hapo()
    state = shaping.next_state(responses([1, 1], [900, 700], KNOWN))
    assert state["history"]["p"] == [700.0, 1.0]
    assert shaping.next_state(responses([1, 0], [800, 3], state)) == state
    assert shaping.next_state(responses([0, 0], [1, 2], state, problem="other")) == state


def test_the_mean_is_over_all_right_lengths_of_the_run() -> None:
    shaping = Hapo(mode="mean")
    state = shaping.next_state(responses([1, 1, 0], [100, 200, 7], shaping.first_state()))
    state = shaping.next_state(responses([1], [600], state))
    assert state["history"]["p"] == [900.0, 3.0]
    assert shaping(responses([1, 1], [300, 150], state)) == near(1.0, 1.7071)


def test_two_groups_of_one_problem_share_a_history() -> None:
    shaping = Hapo()
    rows = Responses.of([1, 1], [50, 40], [0, 1], problem_N=("p", "p"), state=shaping.first_state())
    assert shaping.next_state(rows)["history"] == {"p": [40.0, 1.0]}


@pytest.mark.parametrize("mode", ["min", "mean"])
def test_a_resumed_run_goes_on_with_the_same_history_to_the_last_bit(mode: str) -> None:
    shaping, rng = Hapo(mode=mode), np.random.default_rng(3)  # type: ignore[arg-type]
    state = resumed = shaping.first_state()
    for _ in range(12):
        names = tuple(f"problem {n}" for n in rng.integers(0, 4, 16))
        rows = Responses.of(rng.random(16) < 0.6, rng.integers(1, 999, 16), problem_N=names, state=state)
        again = replace(rows, state=resumed)
        assert np.array_equal(shaping(rows), shaping(again))
        state = shaping.next_state(rows)
        # From a file, and with the responses in another order, as with another number of ranks.
        resumed = json.loads(json.dumps(shaping.next_state(again.select(rng.permutation(16)))))
        assert resumed == state


@pytest.mark.parametrize(
    "settings",
    [{"weight": 0.0}, {"weight": 1.01}, {"tolerance": -0.1}, {"curve": "square"}, {"mode": "max"}, {"gate": "none"}],
)
def test_settings_that_break_an_invariant_or_do_nothing_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"hapo.{next(iter(settings))}"):
        Hapo(**settings)  # type: ignore[arg-type]
