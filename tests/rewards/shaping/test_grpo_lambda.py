"""Which groups get the length reward, and that the others keep the outcome."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from laconic.errors import ConfigError, DataError
from laconic.rewards.shaping import Responses
from laconic.rewards.shaping.arora_sigmoid import AroraSigmoid
from laconic.rewards.shaping.grpo_lambda import GrpoLambda

GROUP_N = np.repeat(np.arange(4), 4)
LENGTH_N = np.tile([200, 400, 800, 600], 4)


def batch(right_of: list[int], problems: str = "abcd") -> Responses:
    """Four groups of four with so many right responses each."""
    right_N = np.concatenate([np.arange(4) < right for right in right_of])
    return Responses.of(right_N, LENGTH_N, GROUP_N, problem_N=tuple(np.repeat([*problems], 4).tolist()))


def shaped_groups(shaping: GrpoLambda, responses: Responses) -> list[int]:
    changed_N = shaping(responses) != responses.right_N
    return sorted({*GROUP_N[changed_N].tolist()})


def test_length_counts_in_the_best_solved_groups_only() -> None:
    responses = batch([4, 3, 1, 2])  # p = 1.0, 0.75, 0.25, 0.5
    assert shaped_groups(GrpoLambda(share=0.5), responses) == [0, 1]
    reward_N = GrpoLambda(share=0.5, alpha=0.4)(responses)
    for group in (0, 1):
        rows_G = np.flatnonzero(group == GROUP_N)
        alone = responses.select(rows_G)
        assert reward_N[rows_G].tolist() == AroraSigmoid(0.4)(alone).tolist()
    assert reward_N[8:].tolist() == responses.right_N[8:].astype(float).tolist()


def test_among_equal_solve_rates_a_hash_of_problem_and_step_decides() -> None:
    shaping = GrpoLambda(share=0.25)

    def chosen(problems: str, step: int) -> str:
        [[first, *_]] = shaping.top_groups(replace(batch([2, 2, 2, 2], problems), step=step))
        return problems[GROUP_N[first]]

    picks = [chosen("abcd", step) for step in range(40)]
    assert {*picks} == {*"abcd"}, "no problem is left out for ever"
    assert picks == [chosen("dbca", step) for step in range(40)], "places in the batch do not count"
    assert shaped_groups(GrpoLambda(share=0.5), batch([2, 2, 2, 2], "bbbb")) == [0, 1]


def test_a_group_without_a_right_response_is_never_chosen() -> None:
    responses = batch([0, 1, 0, 0])
    assert [rows.tolist() for rows in GrpoLambda(share=1.0).top_groups(responses)] == [[4, 5, 6, 7]]
    assert GrpoLambda(share=1.0).top_groups(batch([0, 0, 0, 0])) == []


def test_the_number_of_groups_is_rounded_down_without_losing_one_to_rounding_errors() -> None:
    assert [GrpoLambda(share=share).chosen(count) for share, count in ((0.2, 4), (0.2, 9), (0.29, 100))] == [0, 1, 29]


def test_a_batch_too_small_for_any_group_is_refused() -> None:
    GrpoLambda().check(SimpleNamespace(prompts_per_step=5))
    with pytest.raises(ConfigError, match="prompts_per_step to 5"):
        GrpoLambda().check(SimpleNamespace(prompts_per_step=4))


def test_without_problem_ids_there_is_no_order() -> None:
    with pytest.raises(DataError, match="problem_N"):
        GrpoLambda()(Responses.of([1], [5]))


@pytest.mark.parametrize("settings", [{"share": 0.0}, {"share": 1.1}, {"alpha": 0.0}, {"alpha": 1.0}])
def test_settings_that_break_an_invariant_or_do_nothing_are_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match=rf"grpo_lambda\.{next(iter(settings))}"):
        GrpoLambda(**settings)
