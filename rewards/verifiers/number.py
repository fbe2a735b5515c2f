r"""`number`: the answer is one number, as in GSM8K.

    #### 72      \boxed{72}      Answer: 72      A: $72.00      ... which makes 72 eggs.

A marked answer comes before an unmarked one, and of several marked ones the last counts. Without a mark it is the last
number of the answer part. Thousands commas, currency signs, units, a trailing full stop and ``.0`` do not matter.
Values are compared as decimals, exactly; nothing is evaluated, so ``36*2`` and ``144/2`` are not 72.
"""

from __future__ import annotations

import re
from decimal import Decimal

from ...errors import DataError
from ..verdict import Judgement, Verdict
from .answer_part import EXTRACTED_MAX, answer_part

KNOWN_PAIRS = (
    ("<think>36*2</think>It takes 36*2 = 72 eggs.", "72", Verdict.RIGHT),
    ("#### $1,450.00", "1450", Verdict.RIGHT),
    (r"so \boxed{-3} holds, in 5 steps", "-3", Verdict.RIGHT),
    ("A: 73", "72", Verdict.WRONG),
    ("<think>it is 72", "72", Verdict.UNREADABLE),
    ("seventy-two", "72", Verdict.UNREADABLE),
)
"""``(response, gold, verdict)``: what every worker checks before it judges anything."""

TAIL = 20_000
"""Characters at the end of the answer part that are searched: final answers stand last, and work stays bounded."""
DIGITS = 100
"""Longest number that is read, in characters."""


def judge(response: str, gold: str) -> Judgement:
    """Compare the number that ``response`` answers with ``gold``.

    Reasons: see ``answer_part``; ``no_number``, ``several_numbers`` (different ones in one box), ``fraction``,
    ``too_long``, ``no_box`` (unclosed), ``empty_box``, ``mismatch``. Raises ``DataError`` if the gold is not a number.
    """
    wanted = _gold(gold)
    part, reason = answer_part(response)
    if part is None:
        return Judgement(Verdict.UNREADABLE, reason=reason)
    answer, written, reason = _read(part)
    if answer is None:
        return Judgement(Verdict.UNREADABLE, written or None, reason)
    return Judgement(*((Verdict.RIGHT, written) if answer == wanted else (Verdict.WRONG, written, "mismatch")))


def _gold(gold: str) -> Decimal:
    """The value of a gold: a number alone, or a worked solution that ends in ``#### number``."""
    text = _plain(gold).rpartition("####")[2].strip().rstrip(".%")
    value = _value([text])[0] if _NUMBER.fullmatch(text) else None
    if value is None:
        raise DataError(f"gold {gold[:80]!r} is not a number; mend the row, or use the verifier 'exact'")
    return value


def _plain(text: str) -> str:
    """The end of ``text`` with one spelling for commas, minus signs and fractions, and without currency signs."""
    text = text[-TAIL:]
    for written, plain in _PLAIN:
        text = text.replace(written, plain)
    return _FRAC.sub(r"\1/\2", text)


def _read(text: str) -> tuple[Decimal | None, str, str]:
    """``(value, as written, "")`` of the answer in ``text``, or ``(None, what was found, reason)``."""
    text = _plain(text)
    marks = list(_MARK.finditer(text))
    if not marks:
        return _value(_NUMBER.findall(text)[-1:])
    rest = text[marks[-1].end() :]
    if not rest.startswith("{"):
        return _value(_NUMBER.findall(rest)[:1])
    box = _braced(rest)
    if box is None:
        return None, "", "no_box"
    if not box.strip():
        return None, "", "empty_box"
    return _value(_NUMBER.findall(box))


def _value(found: list[str]) -> tuple[Decimal | None, str, str]:
    """The value that all of ``found`` agree on."""
    if not found:
        return None, "", "no_number"
    if max(map(len, found)) > DIGITS:
        return None, found[-1][:EXTRACTED_MAX], "too_long"
    if any("/" in token for token in found):
        return None, found[-1], "fraction"
    values = {Decimal(token.replace(",", "")) for token in found}
    if len(values) > 1:
        return None, " ".join(found)[:EXTRACTED_MAX], "several_numbers"
    return values.pop(), found[-1], ""


def _braced(text: str) -> str | None:
    r"""What the brace pair that opens ``text`` encloses, or None if it is never closed; ``\{`` does not count."""
    depth = 0
    for brace in _BRACE.finditer(text):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[1 : brace.start()]
    return None


_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_FRAC = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_PLAIN = (("{,}", ","), (r"\,", ""), (r"\!", ""), (r"\$", ""), ("$", ""), ("\N{MINUS SIGN}", "-"))
# Every branch begins with a plain letter, which lets the search skip over other text quickly.
_MARK = re.compile(
    r"""\#\#\#\#\s*(?=[-+]?\.?\d)                               # a header such as "#### Step 1" is no mark
      | \\(?:boxed|fbox)\s*(?=\{)                               # the last one is also the innermost of a nest
      | A(?<!\wA)(?:nswer|NSWER)\b(?:\s+is)?[\s*]*:
      | a(?<!\wa)nswer\b(?:\s+is)?[\s*]*:
      | A(?<![^\n*]A)[\s*]*:                                    # at the start of a line, perhaps in bold type""",
    re.VERBOSE,
)
# At most 30 groups of three. No possessive groups such as `(...)?+`: in Python 3.11.2 one that fails in its middle has
# eaten characters all the same.
_COMMAS = r"\d{1,3}(?:(?:,\d{3}){30}(?!\d)|(?:,\d{3}){1,29}(?!\d|,\d{3}))"
_ONE = rf"(?:(?:{_COMMAS}|\d++)(?:\.\d++)?|\.\d++)(?:[eE][-+]?\d{{1,4}}+)?"
# A minus between two operands is a subtraction, not a sign.
_NUMBER = re.compile(rf"(?:(?<![\w)\]}}.^])[-+]|(?<![\w.^])){_ONE}(?:\s?/\s?{_ONE})?")
