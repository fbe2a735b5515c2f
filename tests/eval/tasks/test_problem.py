"""Procedural problems: a pure function of split, seed and index, with splits that share no prompt."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.eval.tasks import PROCEDURAL, ProceduralTask, split_of

TASKS = pytest.mark.parametrize("task", PROCEDURAL.values(), ids=lambda task: task.name)
DRAWS = {"chain": 10_000, "search": 1_000}
"""From each split; a search takes ten times as long to draw."""


@TASKS
def test_train_and_test_share_no_prompt_in_thousands_of_draws(task: ProceduralTask) -> None:
    train, test = (
        {problem.prompt for problem in task.problems(split, 0, DRAWS[task.name])} for split in ("train", "test")
    )
    assert not train & test
    assert min(len(train), len(test)) > 100


@TASKS
@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.sampled_from(["train", "test"]), st.integers(0, 2**31), st.integers(0, 10**6))
def test_a_problem_depends_on_split_seed_and_index_alone(task: ProceduralTask, split, seed: int, index: int) -> None:
    problem = task.problem(split, seed, index)
    task.problem(split, seed + 1, index + 1)
    assert problem == task.problem(split, seed, index)
    assert split_of(problem.prompt) == split
    assert problem.source == task.name and problem.id == f"{task.name}/{split}/{seed}/{index}"
    assert len(problem.gold) == 1 and problem.gold.isdigit()


@TASKS
def test_a_stream_walks_through_the_levels_in_turn(task: ProceduralTask) -> None:
    problems = list(task.problems("train", 3, 2 * len(task.levels)))
    assert tuple(problem.level for problem in problems) == 2 * task.levels
    assert len({problem.id for problem in problems}) == len(problems)
    assert list(islice(task.problems("train", 3, 50), 4)) == problems[:4]


@TASKS
def test_seeds_give_different_problems(task: ProceduralTask) -> None:
    one, other = ([problem.prompt for problem in task.problems("train", seed, 40)] for seed in (0, 1))
    assert one != other


def test_one_prompt_in_four_is_a_test_prompt() -> None:
    share = sum(split_of(f"{number}=") == "test" for number in range(10_000)) / 10_000
    # Four standard errors of a share of 1/4.
    assert share == pytest.approx(0.25, abs=4 * 0.0043)
