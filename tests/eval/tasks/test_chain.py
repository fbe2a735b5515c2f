"""Chains: arithmetic modulo 10 from left to right."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.eval.tasks import CHAIN

ENTROPY = st.text("abcdef", max_size=8)


@pytest.mark.parametrize(
    ("prompt", "steps"),
    [
        ("3+4*2-1=", ["3+4=7", "7*2=4", "4-1=3"]),
        ("0-1=", ["0-1=9"]),
        ("9*9*9=", ["9*9=1", "1*9=9"]),
    ],
)
def test_worked_examples_go_from_left_to_right_modulo_ten(prompt: str, steps: list[str]) -> None:
    assert CHAIN.steps(prompt) == steps


def test_a_slip_is_carried_on() -> None:
    results = iter([5, 0, 9])
    assert CHAIN.steps("3+4*2-1=", lambda _: next(results)) == ["3+4=5", "5*2=0", "0-1=9"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(CHAIN.levels), ENTROPY)
def test_the_gold_is_the_value_of_the_prompt_with_one_operation_per_level(level: int, entropy: str) -> None:
    prompt, gold = CHAIN.draw(level, entropy)
    nested = "(" * level + prompt[0] + "".join(f"{prompt[at : at + 2]})" for at in range(1, len(prompt) - 1, 2))
    # Taking every step modulo 10 and taking the result modulo 10 is the same.
    assert len(prompt) == 2 * level + 2 and prompt[-1] == "="
    assert gold == str(eval(nested) % 10)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sampled_from(CHAIN.levels), ENTROPY)
def test_the_guess_of_every_beginning_of_a_pass_is_its_last_finished_result(level: int, entropy: str) -> None:
    prompt, gold = CHAIN.draw(level, entropy)
    written = ",".join(CHAIN.steps(prompt))
    expected = list(_last_results(written))
    assert [CHAIN.guess(written[:length]) for length in range(1, len(written) + 1)] == expected
    assert expected[-1] == gold


def _last_results(written: str) -> Iterator[str]:
    """The digit after the last ``=`` so far, or the first number, after every character."""
    last = written[0]
    for before, character in zip(" " + written[:-1], written, strict=True):
        last = character if before == "=" else last
        yield last
