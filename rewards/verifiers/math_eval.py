r"""`math_eval`: as `math`, but the answer may stand wherever a reader would find it. For evaluation.

    \boxed{1} then \boxed{2}                      2          the last box
    \boxed{98} and \boxed{99}, gold 98, 99        98, 99     all boxes of the last sentence, if the gold has parts
    Answer: 4     #### 4     A: 4     4           4
    not 3, it's 4 apples                          4          a short text without a mark: its last number or formula

Figures of other projects are made by such rules, and a response to a foreign prompt should not fail for its form.
Training by them would reward careless forms.
"""

from __future__ import annotations

import re

from ..verdict import Judgement, Verdict
from .answer_part import EXTRACTED_MAX
from .formulas.equality import compare, read_prose
from .formulas.extract import lenient
from .formulas.plain import plain_number
from .formulas.spelling import tidy

KNOWN_PAIRS = (
    ("<think>36*2</think>It takes \\boxed{72} eggs.", "72", Verdict.RIGHT),
    ("\\boxed{1} then \\boxed{2}", "2", Verdict.RIGHT),
    ("Answer: $2\\sqrt{2}$", "\\sqrt{8}", Verdict.RIGHT),
    ("#### 73", "72", Verdict.WRONG),
    ("<think>so \\boxed{72}", "72", Verdict.UNREADABLE),
)
"""``(response, gold, verdict)``: what every worker checks before it judges anything."""


def judge(response: str, gold: str) -> Judgement:
    """Compare the last answer of ``response`` with ``gold``.

    Reasons: see ``formulas.extract`` and ``formulas.equality``, and ``no_answer`` for a text without a formula.
    """
    found = lenient(response)
    if not found.answers:
        return Judgement(Verdict.UNREADABLE, reason=found.reason)
    answer = found.answers[-1]
    right, reason = compare(gold, answer)
    if not right and len(found.answers) > 1 and _has_several_parts(gold):
        answer = ", ".join(found.answers)
        right, reason = compare(gold, answer)
    if not right and not found.boxed:
        read = read_prose(answer)
        if read is None:
            return Judgement(Verdict.UNREADABLE, answer[:EXTRACTED_MAX], "no_answer")
        answer = read
        right, reason = compare(gold, answer)
    return Judgement(Verdict.RIGHT if right else Verdict.WRONG, answer[:EXTRACTED_MAX], reason)


def _has_several_parts(gold: str) -> bool:
    """Whether ``gold`` lists several answers: separated outside of brackets, or in the braces of a set."""
    gold = tidy(gold)
    if plain_number(gold) is not None:
        return False
    if braces := _SET.fullmatch(gold):
        gold = braces.group(1)
    depth, outer = 0, []
    for sign in gold:
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0:
            outer.append(sign)
    return bool(_SEPARATOR.search("".join(outer)))


_SET = re.compile(r"\\?\{(.*?)\\?\}", re.DOTALL)
_SEPARATOR = re.compile(r"[,;]|\\pm|\b(?:and|or)\b|\\text(?:[^a-z]|$)")
