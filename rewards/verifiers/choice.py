r"""`choice`: the answer is the letter of an option.

    \boxed{B}    \boxed{\text{(B)}}    Answer: B    the answer is (B)    B    (B) 7 apples

The last box comes first, then the last `Answer:`, then the last "answer is", then a text that begins with a letter and
names no other. Letters A to J; a small letter counts only where it is marked and alone.
"""

from __future__ import annotations

import re

from ...errors import DataError
from ..verdict import Judgement, Verdict
from .answer_part import EXTRACTED_MAX, answer_part
from .formulas.boxes import find_boxes

KNOWN_PAIRS = (
    ("<think>A or B?</think>Answer: B", "B", Verdict.RIGHT),
    ("so \\boxed{\\text{(C)}}", "C", Verdict.RIGHT),
    ("Answer: A", "B", Verdict.WRONG),
    ("I cannot tell.", "B", Verdict.UNREADABLE),
)
"""``(response, gold, verdict)``: what every worker checks before it judges anything."""

TAIL = 20_000
"""Characters at the end of the answer part that are searched: final answers stand last, and work stays bounded."""


def judge(response: str, gold: str) -> Judgement:
    """Compare the letter that ``response`` chooses with ``gold``.

    Reasons: see ``answer_part``; ``no_choice``, ``several_choices`` (different letters in one place), ``no_box``
    (unclosed), ``mismatch``. Raises ``DataError`` if the gold is no letter from A to J.
    """
    wanted = option(gold)
    if wanted is None:
        raise DataError(f"gold {gold[:80]!r} is not one letter from A to J; mend the row, or use the verifier 'text'")
    part, reason = answer_part(response)
    if part is None:
        return Judgement(Verdict.UNREADABLE, reason=reason)
    place, reason = _place(part[-TAIL:])
    if place is None:
        return Judgement(Verdict.UNREADABLE, reason=reason)
    letters = set(_LETTER.findall(place)) or ({alone} if (alone := option(place)) else set())
    if len(letters) != 1:
        reason = "several_choices" if letters else "no_choice"
        return Judgement(Verdict.UNREADABLE, place[:EXTRACTED_MAX], reason)
    letter = letters.pop()
    return Judgement(*((Verdict.RIGHT, letter) if letter == wanted else (Verdict.WRONG, letter, "mismatch")))


def option(text: str) -> str | None:
    r"""The letter if ``text`` is one option, such as ``b``, ``(B)`` or ``\text{B.}``, else None."""
    match = _OPTION.fullmatch(text.strip())
    return match.group(1).upper() if match else None


def _place(text: str) -> tuple[str | None, str]:
    """``(the piece of text that names the choice, "")`` or ``(None, reason)``."""
    boxes, unclosed = find_boxes(text)
    if boxes:
        return boxes[-1].content, ""
    if unclosed:
        return None, "no_box"
    for pattern in (_MARK, _PHRASE):
        if found := pattern.findall(text):
            # `Answer: B. Because A ...`: what follows the choice explains it.
            leading = _LEADING.match(found[-1])
            return (leading.group() if leading else found[-1]), ""
    leading = _LEADING.match(text)
    return (
        (leading.group(), "") if leading and set(_LETTER.findall(text)) <= {leading.group(1)} else (None, "no_choice")
    )


_OPTION = re.compile(r"(?:\\(?:text|mathrm|textbf|mathbf)\s*\{)?[\s*(]{0,4}([A-Ja-j])[\s*).:]{0,4}\}?")
# An A before a word is an article, an I alone a pronoun.
_LETTER = re.compile(r"(?<![A-Za-z\\'])(?!A [a-z]|I\b(?!\)))([A-J])(?![A-Za-z'])")
_LEADING = re.compile(r"[\s*_$]{0,5}(?:\\(?:text|mathrm|textbf|mathbf)\s*\{)?\(?([A-J])(?![A-Za-z'])(?!\s[a-z])")
_LINE = r"[\s*_$]{0,5}([^\n]{0,300})"
_MARK = re.compile(rf"\b(?:[Aa]nswer|ANSWER)(?:\s+is)?[ \t*_]*:{_LINE}")
_PHRASE = re.compile(rf"\b(?:[Aa]nswer|[Oo]ption|[Cc]hoice)(?:\s+is){_LINE}")
