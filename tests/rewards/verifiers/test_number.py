"""Verdicts of the number verifier, on made-up cases and on real GSM8K solutions."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import DataError
from laconic.rewards.verdict import Verdict
from laconic.rewards.verifiers.number import DIGITS, TAIL, judge

RIGHT, WRONG, UNREADABLE = Verdict.RIGHT, Verdict.WRONG, Verdict.UNREADABLE


@pytest.mark.parametrize(
    ("response", "gold"),
    [
        ("<think>36*2</think>It takes 36*2 = 72 eggs.", "72"),
        ("So 48/2=<<48/2=24>>24 and 48+24=72.\n#### 72", "72"),
        ("#### $1,450.00", "1450"),
        ("#### 1450", "1,450"),
        ("#### 5\nI used 3 steps.", "5"),
        (r"\boxed{72} after 5 steps", "72"),
        (r"first \boxed{5}, then \boxed{72}", "72"),
        (r"\boxed{\boxed{72}}", "72"),
        (r"\fbox{72}", "72"),
        (r"\boxed{\$72\text{ eggs}}", "72"),
        (r"\boxed{x=72}", "72"),
        (r"\boxed{1{,}000}", "1000"),
        (r"\boxed{1\,000}", "1000"),
        ("#### Step 1\nCompute.\n\\boxed{72}", "72"),
        ("Answer: 72", "72"),
        ("**Answer:** 72", "72"),
        ("**Answer**: $72.", "72"),
        ("The final answer is: 72 apples, for 3 children", "72"),
        ("A: 72", "72"),
        ("It is 24.\nA: 72", "72"),
        ("Answer: $\\boxed{72}$", "72"),
        ("she sold 9 and has 72.", "72"),
        ("72.0", "72"),
        ("72.", "72"),
        ("+72", "72"),
        (".5", "0.50"),
        ("1.5e3", "1500"),
        ("the change is -3", "-3"),
        ("the change is \N{MINUS SIGN}3", "-3"),
        ("the change is -$3", "-3"),
        ("10-3", "3"),
        ("75-3=72", "72"),
        ("50%", "50"),
        ("72E", "72"),
        ("it is 1,234,567,", "1234567"),
        ("-0", "0"),
        ("72", "a worked solution of 3 lines\n#### 72"),
    ],
)
def test_right(response: str, gold: str) -> None:
    assert judge(response, gold).verdict is RIGHT


@pytest.mark.parametrize(
    ("response", "gold", "verdict", "reason"),
    [
        ("A: 73", "72", WRONG, "mismatch"),
        ("72 eggs for 3 people", "72", WRONG, "mismatch"),
        ("72.01", "72", WRONG, "mismatch"),
        ("-72", "72", WRONG, "mismatch"),
        ("0.3333333", "0.333333", WRONG, "mismatch"),
        ("the answer is in step 72\nA: 5", "72", WRONG, "mismatch"),
        ("2^72", "72", WRONG, "mismatch"),
        ("seventy-two", "72", UNREADABLE, "no_number"),
        ("Answer: seventy-two", "72", UNREADABLE, "no_number"),
        ("72, so the answer: see above", "72", UNREADABLE, "no_number"),
        ("144/2", "72", UNREADABLE, "fraction"),
        (r"\boxed{\frac{144}{2}}", "72", UNREADABLE, "fraction"),
        (r"\boxed{3\text{ or }72}", "72", UNREADABLE, "several_numbers"),
        (r"\boxed{72,3}", "72", UNREADABLE, "several_numbers"),
        (r"\boxed{36*2}", "72", UNREADABLE, "several_numbers"),
        (r"\boxed{72", "72", UNREADABLE, "no_box"),
        (r"\boxed{72\}", "72", UNREADABLE, "no_box"),
        (r"\boxed{72} \boxed{5", "72", UNREADABLE, "no_box"),
        (r"\boxed{72}\boxed{}", "72", UNREADABLE, "empty_box"),
        ("<think>so 72", "72", UNREADABLE, "no_think_end"),
        ("<think>so 72</think>", "72", UNREADABLE, "empty"),
        ("<think>5</think>#### 5</think>#### 72", "72", UNREADABLE, "multi_think_end"),
        ("9" * (DIGITS + 1), "72", UNREADABLE, "too_long"),
    ],
)
def test_not_right(response: str, gold: str, verdict: Verdict, reason: str) -> None:
    judgement = judge(response, gold)
    assert (judgement.verdict, judgement.reason) == (verdict, reason)


@pytest.mark.parametrize("gold", ["", "none", "4a", "3 or 4", "1/2", "#### "])
def test_a_gold_that_is_no_number_is_refused(gold: str) -> None:
    with pytest.raises(DataError, match="is not a number; mend the row"):
        judge("72", gold)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.decimals(min_value=-(10**12), max_value=10**12, places=3), st.sampled_from(["#### {}", "so {}.", "A: {}"]))
def test_a_number_is_read_as_it_is_written_with_or_without_commas(value: Decimal, form: str) -> None:
    assert judge(form.format(f"{value:f}"), f"{value:,f}").verdict is RIGHT
    assert judge(form.format(f"{value:,f}"), f"{value:f}").verdict is RIGHT
    assert judge(form.format(f"{value:f}"), f"{value + 1:f}").verdict is WRONG


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(alphabet="0123456789.,-+/eE{}\\$#:A \nboxed", max_size=60))
def test_any_text_gets_a_judgement(text: str) -> None:
    judgement = judge(text, "72")
    assert (judgement.verdict is UNREADABLE) or judgement.extracted is not None


@pytest.mark.parametrize(
    "text", ["9", "1,111", "{", "\\boxed{", "1/", "#### ", "A: ", "answer" + " " * 200, "-", "1e9999 "]
)
def test_hostile_text_of_ten_megabytes_takes_no_time(text: str) -> None:
    response = text * (10_000_000 // len(text))
    began = time.monotonic()
    assert not judge(response, "72").verdict.right
    assert time.monotonic() - began < 2.0


def test_only_the_end_of_a_long_answer_is_searched() -> None:
    assert judge("A: 72" + " " * TAIL + ".", "72").reason == "no_number"
    assert judge("x " * TAIL + "A: 72", "72").verdict is RIGHT


def test_real_gsm8k_solutions_get_the_verdicts_of_their_source(data_dir: Path) -> None:
    rows = [json.loads(line) for line in (data_dir / "traces_gpt3_gsm8k.jsonl").read_text("utf-8").splitlines()]
    differing = [row["id"] for row in rows if judge(row["response"], row["gold"]).verdict.right != row["correct"]]
    assert len(rows) == 1200
    assert differing == []
