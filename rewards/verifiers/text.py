r"""`text`: the answer is words, compared without regard to case, punctuation and decoration.

    \boxed{\text{Even}}    Answer: even.    **even**    "Even"    ->    even

The last box comes first, then the last `Answer:`, then the whole answer part. Unicode is normalised (NFKC).
"""

from __future__ import annotations

import re
import unicodedata

from ..verdict import Judgement, Verdict
from .answer_part import EXTRACTED_MAX, answer_part
from .formulas.boxes import find_boxes
from .formulas.spelling import words

KNOWN_PAIRS = (
    ("<think>odd?</think>Answer: Even.", "even", Verdict.RIGHT),
    ("\\boxed{\\text{Monday}}", "Monday", Verdict.RIGHT),
    ("odd", "even", Verdict.WRONG),
    ("<think>even", "even", Verdict.UNREADABLE),
)
"""``(response, gold, verdict)``: what every worker checks before it judges anything."""

LONGEST = 2000
"""Longest answer that is compared, in characters."""


def judge(response: str, gold: str) -> Judgement:
    """Compare the words that ``response`` answers with ``gold``.

    Reasons: see ``answer_part``; ``no_box`` (unclosed), ``empty_box``, ``too_long``, ``mismatch``.
    """
    part, reason = answer_part(response)
    if part is None:
        return Judgement(Verdict.UNREADABLE, reason=reason)
    boxes, unclosed = find_boxes(part)
    if unclosed and not boxes:
        return Judgement(Verdict.UNREADABLE, reason="no_box")
    if boxes:
        part = boxes[-1].content
    elif marked := _MARK.findall(part[-LONGEST:]):
        part = marked[-1]
    if not part.strip():
        return Judgement(Verdict.UNREADABLE, reason="empty_box")
    if len(part) > max(LONGEST, 2 * len(gold)):
        return Judgement(Verdict.WRONG, part[:EXTRACTED_MAX], "too_long")
    answer = _normal(part)
    right = answer == _normal(gold)
    return Judgement(
        *((Verdict.RIGHT, answer[:EXTRACTED_MAX]) if right else (Verdict.WRONG, answer[:EXTRACTED_MAX], "mismatch"))
    )


def _normal(text: str) -> str:
    return words(unicodedata.normalize("NFKC", text))


_MARK = re.compile(r"\b(?:[Aa]nswer|ANSWER)(?:\s+is)?[ \t*_]*:[\s*_]{0,5}([^\n]+)")
