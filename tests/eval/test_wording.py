from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from laconic.eval.wording import (
    comparison_headline,
    count,
    evaluation_headline,
    from_to,
    interval,
    margin_words,
    percent,
    ratio,
    seconds,
    signed_points,
    token_change,
)


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (percent, 0.9304, "93.0%"),
        (percent, 1.0, "100.0%"),
        (percent, 0.99999, ">99.9%"),
        (percent, 1999 / 2000, ">99.9%"),
        (percent, 1 / 2000, "0.1%"),
        (percent, 0.0001, "<0.1%"),
        (percent, 0.0, "0.0%"),
        (percent, None, "–"),
        (percent, math.nan, "–"),
        (signed_points, 0.0304, "+3.0"),
        (signed_points, -0.02, "−2.0"),
        (signed_points, -0.0001, "+0.0"),
        (count, 118.2, "118"),
        (count, 99.97, "100"),
        (count, 29.26, "29.3"),
        (count, 12345.6, "12,346"),
        (count, None, "–"),
        (ratio, 0.248, "0.25"),
        (ratio, 0.0342, "0.034"),
        (ratio, 0.0, "0.00"),
        (ratio, 12.34, "12.3"),
        (token_change, 0.25, "75% fewer tokens"),
        (token_change, 1.1, "10% more tokens"),
        (token_change, 1.001, "about as many tokens"),
        (margin_words, 0.01, "1 point"),
        (margin_words, 0.005, "0.5 points"),
    ],
)
def test_numbers_read_like_this(show: Any, value: Any, text: str) -> None:
    assert show(value) == text


def test_times_of_one_row_share_their_unit() -> None:
    assert seconds(24.1e-6, 5.93e-6) == ["24.1 µs", "5.93 µs"]
    assert seconds(1.5, 0.02) == ["1.50 s", "0.0200 s"]
    assert seconds(0.0) == ["0 ns"] and seconds(None) == ["–"]
    assert seconds(1234.5) == ["1,235 s"] or seconds(1234.5) == ["1,234 s"]
    assert from_to(*seconds(24.1e-6, 5.93e-6)) == "24.1 → 5.93 µs"
    assert from_to("118", "29.3") == "118 → 29.3"


def test_an_interval_that_is_not_there_is_a_dash() -> None:
    assert interval((0.24, 0.26), ratio) == "0.24 to 0.26"
    assert interval(None, ratio) == "–"


@pytest.mark.parametrize(
    ("verdict", "ci95", "claim"),
    [
        ("non-inferior", [0.01, 0.04], "The trained model is more accurate than the base model and writes "),
        ("non-inferior", [-0.01, 0.04], "The trained model is as accurate as the base model and writes "),
        (
            "non-inferior",
            [-0.015, -0.001],
            "The trained model is less than 2 points less accurate than the base model and writes ",
        ),
        ("inferior", [-0.06, -0.03], "The trained model is less accurate than the base model and writes "),
        ("undecided", [-0.06, 0.03], "Undecided: the trained model may or may not be as accurate as the base model; "),
    ],
)
def test_the_claim_says_no_more_than_the_interval(written: Any, verdict: str, ci95: list[float], claim: str) -> None:
    block = copy.deepcopy(written.comparison["overall"])
    block["accuracy"] |= {"verdict": verdict, "ci95": ci95, "margin": 0.02}
    headline = comparison_headline(block)
    assert headline.claim.startswith(claim) and "fewer tokens" in headline.claim
    assert interval(ci95, signed_points) in headline.detail
    assert percent(block["accuracy"]["base"]) in headline.detail


def test_runs_keep_their_names_and_one_evaluation_has_a_headline(written: Any) -> None:
    headline = comparison_headline(written.comparison["overall"], ("run-1", "run-2"))
    assert headline.claim.startswith("run-2 is ") and " run-1 " in headline.claim
    single = evaluation_headline(written.base.summary["overall"], "tiny")
    assert single.claim.startswith("tiny is right ") and "95% interval" in single.detail
