"""The strict policy, on sixty worked cases and on what a model could try."""

from __future__ import annotations

import pytest

from laconic.rewards.verdict import Item, Judgement, Verdict
from laconic.rewards.verifiers import judge_item, self_test

CASES = (
    (1, "4", r"<t>2+2</t> \boxed{4}", True, ""),
    (2, "4", r"<t>so \boxed{4}</t> The answer is five.", False, "no_box"),
    (3, "4", r"<think>so \boxed{4}", False, "no_think_end"),
    (4, "4", r"\boxed{4}", False, "no_think_end"),
    (5, "4", r"<think>a</think>b</think>\boxed{4}", False, "multi_think_end"),
    (6, "4", r"<t>x</t> \boxed{5} or \boxed{4}", False, "multi_box"),
    (7, "4", r"<t>x</t> \boxed{4} or \boxed{5}", False, "multi_box"),
    (8, "4", r"<t>x</t> \boxed{4}. Thus \boxed{4.0}", True, ""),
    (9, "4", r"<t>x</t> \boxed{3\text{ or }4}", False, ""),
    (10, "3", r"<t>x</t> \boxed{1,2,3,4,5}", False, ""),
    (11, "4", r"<t>x</t> \boxed{}", False, "empty_box"),
    (12, "5", r"<t>x</t> \boxed{5}\boxed{}", False, "empty_box"),
    (13, "4", r"<t>x</t> \boxed{4", False, "no_box"),
    (14, "4", r"<t>x</t> The final answer is 4.", False, "no_box"),
    (15, "4", r"<t>x</t> \boxed{\boxed{4}}", True, ""),
    (16, "4", r"<t>x</t> \fbox{4}", True, ""),
    (17, r"\frac{1}{2}", r"<t>x</t> \boxed{0.5}", True, ""),
    (18, r"\frac{1}{2}", r"<t>x</t> \boxed{\frac12}", True, ""),
    (19, r"\frac{1}{3}", r"<t>x</t> \boxed{0.333}", False, ""),
    (20, r"\frac{1}{3}", r"<t>x</t> \boxed{0.3333333}", True, ""),
    (21, r"\frac{\pi}{2}", r"<t>x</t> \boxed{1.5708}", False, ""),
    (22, r"2\pi", r"<t>x</t> \boxed{6.283185307179586}", True, ""),
    (23, r"\sqrt{8}", r"<t>x</t> \boxed{2\sqrt{2}}", True, ""),
    (24, "(1,2)", r"<t>x</t> \boxed{(2,1)}", False, ""),
    (25, r"\{1,2\}", r"<t>x</t> \boxed{2,1}", True, ""),
    (26, "(1,2)", r"<t>x</t> \boxed{[1,2]}", False, ""),
    (27, "(3,4]", r"<t>x</t> \boxed{(3,4)}", False, ""),
    (28, "5", r"<t>x</t> \boxed{x=5}", True, ""),
    (29, "x<3", r"<t>x</t> \boxed{(-\infty,3)}", True, ""),
    (30, r"(-\infty,3)", r"<t>x</t> \boxed{x<3}", False, ""),
    (31, "50", r"<t>x</t> \boxed{50\%}", True, ""),
    (32, "0.5", r"<t>x</t> \boxed{50\%}", True, ""),
    (33, "10", r"<t>x</t> \boxed{10\text{ cm}}", True, ""),
    (34, "1000", r"<t>x</t> \boxed{1{,}000}", True, ""),
    (35, "1000", r"<t>x</t> \boxed{1,000}", True, ""),
    (36, r"90^\circ", r"<t>x</t> \boxed{90}", True, ""),
    (37, "90", r"<t>x</t> \boxed{\frac{\pi}{2}}", False, ""),
    (38, "11_2", r"<t>x</t> \boxed{3}", False, ""),
    (39, "101_2", r"<t>x</t> \boxed{101}", True, ""),
    (40, r"3\frac{1}{2}", r"<t>x</t> \boxed{\frac{7}{2}}", True, ""),
    (41, r"1 \pm \sqrt{2}", r"<t>x</t> \boxed{1+\sqrt{2},1-\sqrt{2}}", True, ""),
    (42, "1500", r"<t>x</t> \boxed{1.5e3}", False, ""),
    (43, "10", r"<t>x</t> \boxed{\binom{5}{2}}", True, ""),
    (44, "7", r"<t>x</t> \boxed{3+4}", True, ""),
    (45, "12", r"<t>x</t> \boxed{x=10+2=12}", True, ""),
    (46, r"\begin{pmatrix}1\\2\end{pmatrix}", r"<t>x</t> \boxed{(1,2)}", False, ""),
    (47, "4", r"<t>x</t> \boxed{9^{9^{9^{9}}}}", False, "too_large"),
    (48, "i", r"<t>x</t> \boxed{\sqrt{-1}}", False, ""),
    (49, "A", r"<t>x</t> \boxed{\text{(A)}}", True, ""),
    (50, "-5", r"<t>x</t> \boxed{5}", False, ""),
    (51, "y=2x+1", r"<t>x</t> \boxed{2x+1}", True, ""),
    (52, "2", r"<t>x</t> \boxed{x}", False, ""),
    (53, r"\text{even}", r"<t>x</t> \boxed{\text{odd}}", False, ""),
    (54, "12", r"<t>x</t> \boxed{12.}", True, ""),
    (55, "0", r"<t>x</t> \boxed{-0}", True, ""),
    (56, "2", r"<t>x</t> \boxed{\frac{4}{2}}", True, ""),
    (57, r"\text{Monday}", r"<t>x</t> \boxed{Monday}", True, ""),
    (58, "4", r"<t>2+2</t> \boxed{4}", False, "truncated"),
    (59, "4", r"</think> \boxed{4}", True, ""),
    (60, "4", r"<t>x</t> \boxed{4} <think>", True, ""),
)
"""Number, gold, response, whether it is right, reason where one is named. They fix the policy and, behind it, verdicts
that are properties of math-verify 0.9. ``<t>x</t>`` is a thought."""
TRUNCATED = 58
"""The case that ran into the cap."""


def judge(gold: str, response: str, verifier: str = "math", truncated: bool = False) -> Judgement:
    return judge_item(Item(response.replace("<t>", "<think>").replace("</t>", "</think>"), gold, verifier, truncated))


@pytest.mark.parametrize(("number", "gold", "response", "right", "reason"), CASES)
def test_the_worked_cases_are_judged_as_listed(number: int, gold: str, response: str, right: bool, reason: str) -> None:
    judgement = judge(gold, response, truncated=number == TRUNCATED)
    assert judgement.verdict.right is right, judgement
    assert not reason or judgement.reason == reason


def test_a_response_without_a_readable_answer_is_unreadable_and_one_with_a_wrong_answer_is_wrong() -> None:
    assert judge("4", "<t>x</t> It is 4.").verdict is Verdict.UNREADABLE
    assert judge("4", r"<t>x</t> \boxed{5}").verdict is Verdict.WRONG
    assert judge("4", r"<t>x</t> \boxed{5}").extracted == "5"


def test_without_thought_tags_a_box_is_enough_but_an_open_thought_is_not() -> None:
    assert judge("4", r"\boxed{4}", "math_untagged").verdict is Verdict.RIGHT
    assert judge("4", r"<think>so \boxed{4}", "math_untagged").reason == "no_think_end"
    assert judge("4", r"<t>x</t> \boxed{4}", "math_untagged").verdict is Verdict.RIGHT


def test_many_different_boxes_are_refused_without_comparing_them() -> None:
    boxes = "".join(rf"\boxed{{\sqrt{{{number}}}}}" for number in range(10_000))
    assert judge("4", f"<t>x</t>{boxes}").reason == "multi_box"


@pytest.mark.parametrize("verifier", ["math", "math_untagged", "math_eval", "math_gold", "choice", "text"])
def test_the_known_pairs_hold(verifier: str) -> None:
    assert self_test(verifier) is None
