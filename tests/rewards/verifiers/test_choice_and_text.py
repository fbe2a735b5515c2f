"""Letters of options, and words."""

from __future__ import annotations

import pytest

from laconic.errors import DataError
from laconic.rewards.verdict import Verdict
from laconic.rewards.verifiers import choice, text

RIGHT, WRONG, UNREADABLE = Verdict.RIGHT, Verdict.WRONG, Verdict.UNREADABLE


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("Answer: B", RIGHT),
        ("**Answer: (B)**", RIGHT),
        (r"so \boxed{\text{B}}", RIGHT),
        (r"\boxed{b}", RIGHT),
        (r"\boxed{A} no, \boxed{B}", RIGHT),
        ("Answer: A\nWait.\nAnswer: B. Because A is too large.", RIGHT),
        ("The correct answer is B", RIGHT),
        ("B", RIGHT),
        ("(B) 7 apples", RIGHT),
        ("<think>A</think>B.", RIGHT),
        ("Answer: A", WRONG),
        ("B or C", UNREADABLE),
        (r"\boxed{B, C}", UNREADABLE),
        (r"\boxed{B", UNREADABLE),
        ("A man has 7 apples.", UNREADABLE),
        ("<think>B", UNREADABLE),
    ],
)
def test_the_chosen_letter_is_read(response: str, verdict: Verdict) -> None:
    assert choice.judge(response, "B").verdict is verdict


def test_a_gold_that_is_no_letter_is_refused() -> None:
    assert choice.judge("Answer: B", "(B)").verdict is RIGHT
    with pytest.raises(DataError, match="not one letter"):
        choice.judge("Answer: B", "seven")


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("Even.", RIGHT),
        ("**even**", RIGHT),
        (r"so \boxed{\text{Even}}", RIGHT),
        ("It is a sum.\nAnswer: even", RIGHT),
        ("\uff25ven", RIGHT),
        ("not even", WRONG),
        (r"\boxed{}", UNREADABLE),
        (r"\boxed{even", UNREADABLE),
        ("even " * 1_000, WRONG),
    ],
)
def test_words_are_compared_without_case_and_decoration(response: str, verdict: Verdict) -> None:
    assert text.judge(response, "even").verdict is verdict
