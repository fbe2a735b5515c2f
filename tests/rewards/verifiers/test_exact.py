"""Verdicts of the exact verifier."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.rewards.verdict import Judgement, Verdict
from laconic.rewards.verifiers.answer_part import EXTRACTED_MAX
from laconic.rewards.verifiers.exact import judge

RIGHT, WRONG, UNREADABLE = Verdict.RIGHT, Verdict.WRONG, Verdict.UNREADABLE


@pytest.mark.parametrize(
    ("response", "gold", "verdict", "extracted", "reason"),
    [
        ("<think>3+4=7</think>7", "7", RIGHT, "7", ""),
        ("<think>3+4=7</think> 7\n", " 7", RIGHT, "7", ""),
        ("7", "7", RIGHT, "7", ""),
        ("3+4=7</think>7", "7", RIGHT, "7", ""),
        ("</think>7", "7", RIGHT, "7", ""),
        ("<think>a</think>new \n\t york", "new york", RIGHT, "new york", ""),
        ("<think>a</think>７", "7", RIGHT, "7", ""),
        ("<think>a</think>ﬁve", "five", RIGHT, "five", ""),
        ("<think>a</think>8", "7", WRONG, "8", "mismatch"),
        ("<think>a</think>7.", "7", WRONG, "7.", "mismatch"),
        ("<think>a</think>77", "7", WRONG, "77", "mismatch"),
        ("<think>a</think>Even", "even", WRONG, "Even", "mismatch"),
        ("<think>a</think>6 or 7", "7", WRONG, "6 or 7", "mismatch"),
        ("<think>7", "7", UNREADABLE, None, "no_think_end"),
        ("<think>a</think>7<think>", "7", UNREADABLE, None, "no_think_end"),
        ("<think>a</think>7</think>8", "7", UNREADABLE, None, "multi_think_end"),
        ("<think>a</think>8</think>7", "7", UNREADABLE, None, "multi_think_end"),
        ("<think>7</think>", "7", UNREADABLE, None, "empty"),
        ("<think>7</think> \n ", "7", UNREADABLE, None, "empty"),
        ("", "7", UNREADABLE, None, "empty"),
    ],
)
def test_verdicts(response: str, gold: str, verdict: Verdict, extracted: str | None, reason: str) -> None:
    assert judge(response, gold) == Judgement(verdict, extracted, reason)


def test_long_answers_are_compared_whole_and_recorded_short() -> None:
    gold = "x" * 5000
    assert judge(gold, gold) == Judgement(RIGHT, "x" * EXTRACTED_MAX)
    assert judge(gold + "y", gold).verdict is WRONG


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_gets_a_judgement_and_a_thought_never_answers(thought: str, answer: str) -> None:
    judgement = judge(f"<think>{thought} gold</think>{answer}", "gold")
    assert judgement.verdict.right == (judgement.extracted == "gold")
    assert judge(f"<think>{thought} gold", "gold").verdict in (UNREADABLE, WRONG)
