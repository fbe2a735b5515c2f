"""Searches: candidates are tried upwards from a start until the expression is 0."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.eval.tasks import SEARCH

ENTROPY = st.text("abcdef", max_size=8)


@pytest.mark.parametrize(
    ("prompt", "steps"),
    [
        ("@+1*2-6;2=", ["2+1=3*2=6-6=0>2"]),
        ("@*7+3-4;1=", ["1*7=7+3=0-4=6", "2*7=4+3=7-4=3", "3*7=1+3=4-4=0>3"]),
        ("@+0-1+0;9=", ["9+0=9-1=8+0=8", "0+0=0-1=9+0=9", "1+0=1-1=0+0=0>1"]),
    ],
)
def test_worked_examples_stop_at_the_first_root(prompt: str, steps: list[str]) -> None:
    assert SEARCH.steps(prompt) == steps


def test_the_last_of_ten_candidates_stands_where_none_fits() -> None:
    steps = SEARCH.steps("@*0+1+0;4=")
    assert len(steps) == 10 and steps[-1] == "3*0=0+1=1+0=1>3"


def test_a_slip_is_carried_on_and_may_end_the_search() -> None:
    results = iter([2, 6, 0])
    assert SEARCH.steps("@+1*2-6;5=", lambda _: next(results)) == ["5+1=2*2=6-6=0>5"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(SEARCH.levels), ENTROPY)
def test_the_gold_is_the_first_root_and_the_level_counts_the_tries(level: int, entropy: str) -> None:
    prompt, gold = SEARCH.draw(level, entropy)
    operations, start = prompt[1:7], int(prompt[8])
    tried = [candidate % 10 for candidate in range(start, start + 10)]
    left_to_right = "(({}" + operations[:2] + ")" + operations[2:4] + ")" + operations[4:]
    roots = [eval(left_to_right.format(number)) % 10 == 0 for number in tried]
    assert roots.index(True) == level - 1
    assert gold == str(tried[level - 1])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sampled_from(SEARCH.levels), ENTROPY)
def test_the_guess_of_every_beginning_of_a_pass_is_the_candidate_being_tried(level: int, entropy: str) -> None:
    prompt, gold = SEARCH.draw(level, entropy)
    steps = SEARCH.steps(prompt)
    # The comma between two attempts belongs to the first.
    expected = "".join(attempt[0] * (len(attempt) + 1) for attempt in steps)[:-1]
    written = ",".join(steps)
    assert "".join(SEARCH.guess(written[:length]) for length in range(1, len(written) + 1)) == expected
    assert expected[-1] == gold
