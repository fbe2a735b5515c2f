"""The comparison of formulas: the fast path is the slow path, and what math-verify misses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.rewards.verifiers.formulas.equality import compare
from laconic.rewards.verifiers.formulas.plain import plain_number

EDGES = (
    "0",
    "-0",
    "007",
    "+5",
    "5.0",
    "5.000000",
    ".5",
    "0.5",
    "-.5",
    "1,000",
    "1000",
    "1,000.5",
    "0.000001",
    "0.000000",
)


def plain_numbers() -> st.SearchStrategy[str]:
    whole = st.integers(0, 10**9).map(str) | st.integers(1000, 10**9).map("{:,}".format)
    sign = st.sampled_from(["", "", "-", "+"])
    part = st.just("") | st.integers(0, 999_999).map("{:06d}".format) | st.sampled_from(["0", "5", "50", "00", "25"])
    return st.builds(lambda sign, whole, part: sign + whole + ("." + part if part else ""), sign, whole, part)


def spellings(number: str) -> st.SearchStrategy[str]:
    """The number itself, written otherwise, or a near miss."""
    bare = number.replace(",", "")
    longer = bare + ("0" if "." in bare else ".0")
    return st.sampled_from(
        [number, bare, longer, bare.lstrip("+"), "-" + bare.lstrip("+-"), bare + "1", "0" + bare.lstrip("+-")]
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_the_fast_path_says_of_plain_numbers_what_the_slow_path_says(data: st.DataObject) -> None:
    gold = data.draw(plain_numbers())
    answer = data.draw(spellings(gold) | plain_numbers())
    if plain_number(gold) is not None and plain_number(answer) is not None:
        assert compare(gold, answer)[0] is compare(gold, answer, fast=False)[0]


def test_both_paths_agree_on_every_pair_of_edge_cases() -> None:
    differences = [
        (gold, answer)
        for gold in EDGES
        for answer in EDGES
        if compare(gold, answer)[0] is not compare(gold, answer, fast=False)[0]
    ]
    assert all(plain_number(edge) is not None for edge in EDGES)
    assert differences == []


@pytest.mark.parametrize(
    "text", ["1,00", "12,34", "1e3", "1/2", "4\u0664", "1.2345678", "1234567890123456", "", "-", "5 6"]
)
def test_what_is_not_surely_plain_takes_the_slow_path(text: str) -> None:
    assert plain_number(text) is None


@pytest.mark.parametrize(
    ("gold", "answer", "reason"),
    [
        ("1.5", "1 1/2", ""),
        ("-5", "-5.", ""),
        ("2.625", r"2\frac58", ""),
        ("12", r"12^{\mathrm{th}}", ""),
        ("1000", "1 000", ""),
        (r"\cos(x)", r"\sin(90^{\circ}-x)", ""),
        ("20:34:00", "20:34", "clock"),
        ("B", r"\text{(B)}", ""),
        ("i(2-i)", "1+2i", "imaginary"),
        (r"\left(\frac{a}{b}\right)^{0.5}", r"\frac{\sqrt{a}}{\sqrt{b}}", "root"),
        (r"\text{Even}", "even", ""),
    ],
)
def test_spellings_and_named_kinds_of_gold_are_read(gold: str, answer: str, reason: str) -> None:
    assert compare(gold, answer)[0] is True
    assert compare(gold, answer)[1] in ("", reason)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("11/2", "1 1/2"),
        ("1, 2, 3", "1, 2, 3, ..."),
        (r"\text{Monday}", "dayMon"),
        ("1:00", "12:00"),
        ("i", r"\sqrt{-1}"),
        ("5.001", "5"),
        (r"R_\odot", r"R_\star"),
        (r"\leftarrow", r"\rightarrow"),
    ],
)
def test_near_misses_are_told_apart(gold: str, answer: str) -> None:
    assert compare(gold, answer)[0] is False


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (r"9^{9^{9^{9}}}", "too_large"),
        ("(10^5)!", "too_large"),
        (r"(x+1)^{50000}", "too_large"),
        ("{" * 50 + "4" + "}" * 50, "too_deep"),
        ("1+" * 300 + "1", "too_long"),
        ("9" * 1_000_000, "too_long"),
        (r"\sum_{k=1}^{4} 1", "unevaluated"),
        (r"\frac{1}{", "unparsed"),
    ],
)
def test_dangers_are_refused_with_a_reason(answer: str, reason: str) -> None:
    assert compare("4", answer) == (False, reason)
