"""A verifier that contradicts its own known pairs."""

from __future__ import annotations

from laconic.rewards.verdict import Judgement, Verdict

KNOWN_PAIRS = (("7", "7", Verdict.RIGHT),)


def judge(response: str, gold: str) -> Judgement:
    return Judgement(Verdict.WRONG)
