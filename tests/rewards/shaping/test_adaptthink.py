"""Worked numbers of AdaptThink's reward, and what its bonus may not do."""

from __future__ import annotations

import numpy as np
import pytest

from laconic.errors import ConfigError, DataError
from laconic.rewards.shaping import Responses
from laconic.rewards.shaping.adaptthink import AdaptThink

FOUR = Responses.of(
    [1, 1, 0, 0],
    [40, 400, 30, 500],
    thought_N=np.array([0.0, 300.0, 0.0, np.nan]),
    problem_N=("p", "p", "p", "p"),
)
"""Right at once, right after a thought, wrong at once, wrong in a thought that never ends."""


def near(*values: float) -> object:
    return pytest.approx(values, abs=1e-12)


def test_published_rewards_with_a_reference_accuracy(samples) -> None:
    path = samples({"p": [(100, True)] * 4 + [(900, False)]})
    shaping = AdaptThink(gate="none", reference=str(path))
    rows = Responses.of(
        FOUR.right_N, FOUR.length_N, thought_N=FOUR.thought_N, problem_N=FOUR.problem_N, state=shaping.first_state()
    )
    assert shaping(rows) == near(0.25, 0.20, -0.75, -0.80)
    assert AdaptThink(reference=str(path))(rows) == near(0.25, 0.20, -0.80, -0.80)


def test_without_a_reference_the_reward_is_the_outcome_and_the_bonus() -> None:
    assert AdaptThink()(FOUR) == near(1.05, 1.0, 0.0, 0.0)
    assert AdaptThink(delta=0.1, gate="none")(FOUR) == near(1.1, 1.0, 0.1, 0.0)


def test_the_reference_cancels_where_credit_compares_responses_of_a_group(samples) -> None:
    shaping = AdaptThink(reference=str(samples({"p": [(100, True), (100, False), (100, False)]})))
    rows = Responses.of(
        FOUR.right_N, FOUR.length_N, thought_N=FOUR.thought_N, problem_N=FOUR.problem_N, state=shaping.first_state()
    )
    with_reference, without = shaping(rows), AdaptThink()(FOUR)
    assert with_reference - with_reference.mean() == pytest.approx(without - without.mean(), abs=1e-12)


def test_the_declared_range_and_scope_follow_the_reference() -> None:
    assert AdaptThink().scope == "response" and AdaptThink().range().dominant
    assert AdaptThink(gate="none").range().wrong == (0.0, 0.05)
    with_reference = AdaptThink(reference="samples.parquet")
    assert with_reference.scope == "history"
    assert (with_reference.range().right, with_reference.range().wrong) == ((0.0, 1.05), (-1.0, 0.0))


def test_as_published_an_all_wrong_group_prefers_answers_at_once() -> None:
    wrong = FOUR.select(np.array([2, 3]))
    assert AdaptThink(gate="none")(wrong) == near(0.05, 0.0)
    assert "all_wrong" in AdaptThink(gate="none").exceptions and "all_wrong" not in AdaptThink().exceptions
    assert AdaptThink()(wrong) == near(0.0, 0.0)


def test_responses_without_counted_thoughts_are_refused() -> None:
    with pytest.raises(DataError, match="thought_N"):
        AdaptThink()(Responses.of([1, 0], [10, 20]))


@pytest.mark.parametrize("settings", [{"delta": 0.0}, {"delta": 1.0}, {"gate": "sign_split"}])
def test_settings_that_break_an_invariant_or_do_nothing_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"adaptthink.{next(iter(settings))}"):
        AdaptThink(**settings)  # type: ignore[arg-type]
