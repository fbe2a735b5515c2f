"""The evaluation policy, on labelled cases of public graders and on real outputs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from laconic.rewards.verdict import Verdict
from laconic.rewards.verifiers.math_eval import judge

FLOORS = {"core": 220 / 223, "convention": 66 / 91, "hard": 64 / 84}
"""Least agreement by class: of cases on which graders agree, of conventions (ours are in docs/grading.md), of
pairs that need rounding or an understanding of words."""
TRACES = {"traces_qwen25math_cot.jsonl": 0.98, "traces_gpt3_gsm8k.jsonl": 0.98}
"""Least agreement with the verdicts that came with real outputs."""


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_agreement_with_labelled_cases_is_above_the_floor_in_every_class(data_dir: Path) -> None:
    total: Counter[str] = Counter()
    agreed: Counter[str] = Counter()
    for row in rows(data_dir / "grading_cases_public.jsonl"):
        kind = row["note"].split(";")[0].split(":")[0]
        total[kind] += 1
        agreed[kind] += judge(row["response"], row["gold"]).verdict.right is row["expected"]
    assert {kind: agreed[kind] / total[kind] >= floor for kind, floor in FLOORS.items()} == dict.fromkeys(FLOORS, True)


@pytest.mark.parametrize("name", TRACES)
def test_agreement_with_the_verdicts_of_real_outputs_is_above_the_floor(data_dir: Path, name: str) -> None:
    outputs = [row for row in rows(data_dir / name) if row.get("gold") is not None]
    agreed = sum(judge(row["response"], row["gold"]).verdict.right is row["correct"] for row in outputs)
    assert len(outputs) > 700
    assert agreed / len(outputs) >= TRACES[name]


@pytest.mark.parametrize(
    ("response", "gold", "verdict"),
    [
        (r"\boxed{1} then \boxed{2}", "2", Verdict.RIGHT),
        (r"\boxed{2} then \boxed{1}", "2", Verdict.WRONG),
        (r"\boxed{98} and \boxed{99}", "99, 98", Verdict.RIGHT),
        (r"\boxed{98}. So \boxed{99}", "99, 98", Verdict.WRONG),
        (r"\boxed{1} and \boxed{2}", "(1,2)", Verdict.WRONG),
        (r"\boxed{5", "5", Verdict.UNREADABLE),
        (r"\boxed 7", "7", Verdict.RIGHT),
        ("<answer>7</answer>", "7", Verdict.RIGHT),
        ("#### 10\nMore.\n#### 20", "20", Verdict.RIGHT),
        ("#### Step 1\nAdd.\n\n**Final Answer**\n$20$", "20", Verdict.RIGHT),
        ("Final Answer: The final answer is $10,455$. I hope it is correct.", "10455", Verdict.RIGHT),
        ("The answer is 90 degrees.", "90", Verdict.RIGHT),
        ("42<|endoftext|>", "42", Verdict.RIGHT),
        ("just 42", "42", Verdict.RIGHT),
        ("no idea", "42", Verdict.UNREADABLE),
        ("", "42", Verdict.UNREADABLE),
        (r"<think>\boxed{42}</think> Some other text.", "42", Verdict.UNREADABLE),
        (r"<think>\boxed{42}", "42", Verdict.UNREADABLE),
        ("word " * 100 + "42", "42", Verdict.UNREADABLE),
    ],
)
def test_answers_are_found_where_a_reader_finds_them(response: str, gold: str, verdict: Verdict) -> None:
    assert judge(response, gold).verdict is verdict
