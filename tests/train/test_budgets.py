"""Budgets in prompts: drawn from seed, problem and step alone, and said in the prompt."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from laconic.errors import ConfigError, DataError
from laconic.eval.tasks import Problem
from laconic.train.budgets import BudgetSettings
from laconic.train.prompts import Prompts
from laconic.train.thinker.tokenizer import build_tokenizer

RANGE = BudgetSettings(low=100, high=4000, instruction=" Think for maximum {budget} tokens.")
LEVELS = BudgetSettings(levels={"short": 100, "medium": 300, "long": 900}, instruction=" Be {level}.")
IDS = [f"chain/train/0/{number}" for number in range(2000)]
PROBLEMS = [Problem(f"p{number}", "1" * number, "1", "test") for number in (3, 9, 5)]


def test_budgets_cover_the_range_evenly() -> None:
    drawn = np.array([RANGE.of(1, name, 0) for name in IDS])
    assert drawn.min() >= 100 and drawn.max() <= 4000 and np.array_equal(drawn, np.round(drawn))
    quarters = np.histogram(drawn, bins=4, range=(100, 4001))[0] / len(IDS)
    assert quarters == pytest.approx([0.25] * 4, abs=0.04)
    assert {BudgetSettings(low=7, high=9, instruction="{budget}").of(1, name, 0) for name in IDS} == {7, 8, 9}


def test_a_problem_keeps_its_budget_and_other_seeds_and_problems_have_others() -> None:
    assert RANGE.of(1, "p1", 0) == RANGE.of(1, "p1", 40)
    assert len({RANGE.of(seed, problem, 0) for seed in (1, 2) for problem in ("p1", "p2")}) == 4


def test_a_draw_is_the_same_for_ever() -> None:
    # A resumed run, and every rank, must find the budget that the prompt was made with.
    assert [RANGE.of(1, name, 0) for name in ("p1", "p2")] == [343.0, 2804.0]


def test_budgets_may_be_drawn_anew_in_every_step() -> None:
    anew = BudgetSettings(low=100, high=4000, instruction="{budget}", redraw="step")
    assert len({anew.of(1, "p1", step) for step in range(20)}) > 15


def test_a_share_of_the_problems_is_left_as_it_is() -> None:
    half = BudgetSettings(low=100, high=4000, instruction="@{budget}", share=0.5)
    drawn = [half.of(1, name, 0) for name in IDS]
    assert np.isnan(drawn).mean() == pytest.approx(0.5, abs=0.04)
    for name, tokens in zip(IDS[:50], drawn[:50], strict=True):
        asked = None if math.isnan(tokens) else f"{{prompt}}@{tokens:.0f}"
        assert half.template(None, 1, name, 0) == asked
        assert asked is None or tokens == RANGE.of(1, name, 0)


def test_levels_are_named_in_the_prompt_and_give_their_tokens() -> None:
    for name in IDS[:20]:
        text, tokens = LEVELS.template(None, 1, name, 0), LEVELS.of(1, name, 0)
        level = {100.0: "short", 300.0: "medium", 900.0: "long"}[tokens]
        assert text == f"{{prompt}} Be {level}."
    assert {LEVELS.of(1, name, 0) for name in IDS[:20]} == {100.0, 300.0, 900.0}


def test_an_instruction_follows_the_prompt_or_surrounds_it() -> None:
    fixed = BudgetSettings(low=50, high=50, instruction=" Use {budget}.")
    assert fixed.template(None, 1, "p", 0) == "{prompt} Use 50."
    assert fixed.template("Q: {prompt} A:", 1, "p", 0) == "Q: {prompt} A: Use 50."
    around = BudgetSettings(low=50, high=50, instruction="[{budget}] {prompt}")
    assert around.template("Q: {prompt} A:", 1, "p", 0) == "[50] Q: {prompt} A:"


def test_without_budgets_nothing_is_asked_for() -> None:
    none = BudgetSettings()
    assert math.isnan(none.of(1, "p", 0)) and none.template("x{prompt}", 1, "p", 0) == "x{prompt}" and not none.given
    assert none.smallest is None and RANGE.smallest == 100 and LEVELS.smallest == 100
    unsaid = BudgetSettings(low=50, high=50)
    assert unsaid.of(1, "p", 0) == 50 and unsaid.template(None, 1, "p", 0) is None and unsaid.given


def test_prompts_hold_the_budget_that_the_reward_will_see() -> None:
    budget = BudgetSettings(low=100, high=999, instruction="@{budget}=")
    tokenizer = build_tokenizer()
    prompts = Prompts(PROBLEMS, tokenizer, "{prompt}+", 20, budget, seed=3)
    for index, problem in enumerate(PROBLEMS):
        asked = int(budget.of(3, problem.id, 0))
        assert tokenizer.decode(prompts.at(index, 0)) == f"{problem.prompt}+@{asked}="
        assert prompts.at(index, 8) is prompts.at(index, 0)


def test_prompts_follow_budgets_that_are_drawn_anew() -> None:
    budget = BudgetSettings(low=100, high=999, instruction="@{budget}=", redraw="step")
    tokenizer = build_tokenizer()
    prompts = Prompts(PROBLEMS, tokenizer, None, 20, budget, seed=3)
    for step in range(5):
        assert tokenizer.decode(prompts.at(1, step)) == f"{'1' * 9}@{int(budget.of(3, 'p9', step))}="


def test_an_instruction_that_makes_a_prompt_too_long_is_found_at_once() -> None:
    # Drawn anew, the longest budget counts, not the one of the first step.
    Prompts(PROBLEMS, build_tokenizer(), None, 9)
    with pytest.raises(DataError, match="has 11 tokens; set rollout.max_prompt=11"):
        Prompts(PROBLEMS, build_tokenizer(), None, 9, BudgetSettings(low=5, high=5, instruction="@{budget}"))
    drawn = BudgetSettings(low=1, high=1000, instruction="{budget}", redraw="step")
    with pytest.raises(DataError, match="has 13 tokens"):
        Prompts(PROBLEMS, build_tokenizer(), None, 12, drawn)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": 5}, "go together"),
        ({"low": 0, "high": 5, "instruction": "{budget}"}, "budget low is 0"),
        ({"low": 9, "high": 5, "instruction": "{budget}"}, "exchange the two"),
        ({"low": 5, "high": 9}, "no prompt would say which"),
        ({"instruction": "{budget}"}, "no budget to name"),
        ({"low": 5, "high": 9, "instruction": "be brief"}, "names no budget"),
        ({"low": 5, "high": 9, "instruction": "{level}"}, "budget.levels is empty"),
        ({"low": 5, "high": 9, "levels": {"short": 3}}, "two ways"),
        ({"levels": {"short": 0}, "instruction": "{level}"}, "budget short is 0"),
        ({"low": 5, "high": 5, "redraw": "step"}, "one budget to draw"),
        ({"low": 5, "high": 5, "share": 0.5}, "no prompt would say which"),
        ({"low": 5, "high": 5, "share": 0.0}, "share is 0.0"),
    ],
)
def test_budgets_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BudgetSettings(**settings)
