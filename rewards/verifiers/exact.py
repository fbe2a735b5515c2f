"""`exact`: the answer equals the gold, character by character, after normalisation.

    normal(text) = NFKC(text), stripped, every run of white space folded to one blank
    right  <=>  normal(answer part) == normal(gold)

For answers with one spelling: digits, option letters, words. Case counts.
"""

from __future__ import annotations

import unicodedata

from ..verdict import Judgement, Verdict
from .answer_part import EXTRACTED_MAX, answer_part

KNOWN_PAIRS = (
    ("<think>3+4=7</think>7", "7", Verdict.RIGHT),
    ("7", "7", Verdict.RIGHT),
    ("<think>3+4=7</think>8", "7", Verdict.WRONG),
    ("<think>3+4=7", "7", Verdict.UNREADABLE),
)
"""``(response, gold, verdict)``: what every worker checks before it judges anything."""


def judge(response: str, gold: str) -> Judgement:
    """Compare the answer part of ``response`` with ``gold``. Reasons: see ``answer_part``, and ``mismatch``."""
    part, reason = answer_part(response)
    if part is None:
        return Judgement(Verdict.UNREADABLE, reason=reason)
    answer = _normal(part)
    if answer == _normal(gold):
        return Judgement(Verdict.RIGHT, answer[:EXTRACTED_MAX])
    return Judgement(Verdict.WRONG, answer[:EXTRACTED_MAX], "mismatch")


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())
