"""Golds that no answer can be right against are found, in this process and in the pool."""

from __future__ import annotations

from laconic.rewards.golds import GOLD_VERIFIER, gold_fault, unusable_golds
from laconic.rewards.pool import VerifierPool

GOLDS = [
    "72",
    r"\frac{1}{2}",
    r"\frac{1}{",
    " ",
    r"x_1=2, x_2=3",
    r"\text{Monday}",
    "9^{9^{9^{9}}}",
    r"\frac{1}{",
    "4343_6",
]
FAULTS = {2: "unparsed", 3: "empty", 6: "too_large", 7: "unparsed"}


def test_faults_are_named_by_index_in_this_process() -> None:
    assert unusable_golds(GOLDS, "math") == FAULTS


def test_the_pool_finds_the_same() -> None:
    with VerifierPool(spare=0, deadline=30, verifiers=[GOLD_VERIFIER]) as pool:
        assert unusable_golds(GOLDS, "math_eval", pool) == FAULTS


def test_each_verifier_has_its_own_golds() -> None:
    assert [gold_fault(gold, "number") for gold in ("7", "1,000", "seven")] == ["", "", "no_number"]
    assert [gold_fault(gold, "choice") for gold in ("B", "(c)", "7")] == ["", "", "no_letter"]
    assert [gold_fault(gold, "text") for gold in ("even", "")] == ["", "empty"]
