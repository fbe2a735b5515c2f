"""`math_gold`: whether a gold can be judged by the mathematical verifiers. The response plays no part.

A gold that math-verify cannot read makes every answer wrong for ever, so it is looked for when data are loaded (see
``rewards.golds``). It is a verifier so that the check runs in the worker pool: a gold may be as hostile as an answer.
"""

from __future__ import annotations

import re

from ..verdict import Judgement, Verdict
from .formulas.equality import is_words, parses
from .formulas.hazards import hazard
from .formulas.plain import plain_number
from .formulas.spelling import tidy

KNOWN_PAIRS = (
    ("", "72", Verdict.RIGHT),
    ("", "2\\sqrt{2}", Verdict.RIGHT),
    ("", "\\text{Monday}", Verdict.RIGHT),
    ("", "\\frac{1}{", Verdict.UNREADABLE),
)
"""``(response, gold, verdict)``: what every worker checks before it judges anything."""

LONGEST = 2000
"""Longest gold that is parsed, in characters."""


def judge(response: str, gold: str) -> Judgement:
    """RIGHT for a gold that can be judged, UNREADABLE for another.

    Reasons: ``empty``, ``unparsed``, ``too_long``, ``too_deep``, ``too_large``. A gold in words is compared by
    letters and needs no parse.
    """
    text = tidy(gold[: LONGEST + 1])
    if plain_number(text) is not None or _FRACTION.fullmatch(text) or is_words(text):
        return Judgement(Verdict.RIGHT, text)
    reason = "empty" if not text else hazard(text, LONGEST)
    if not reason and not parses(gold):
        reason = "unparsed"
    return Judgement(Verdict.UNREADABLE, reason=reason) if reason else Judgement(Verdict.RIGHT, text)


_FRACTION = re.compile(r"-?\\frac\{[0-9]{1,9}\}\{[1-9][0-9]{0,8}\}")
