r"""The second grader: kinds of gold on which math-verify is known to fail, each by name, each with its own rule.

    clock        20:34:00 is 20:34                           math-verify reads a ratio
    letter       (C) is C                                    one option of a few; a formula C is no option
    imaginary    i(2-i) is 1+2i                              math-verify takes i for an unknown
    root         (r/(r+s))^{0.5} is \sqrt{r}/\sqrt{r+s}      letters under a root are taken as positive

It is asked after math-verify said no, and only about golds of these kinds; its yes is a yes, with the kind as the
reason, so that the metrics show how often it decides. `imaginary` needs an i on both sides.
"""

from __future__ import annotations

import random
import re
from typing import Any

KINDS = ("clock", "letter", "imaginary", "root")
"""The kinds of gold by name."""


def second_grader(gold: str, answer: str, gold_parsed: Any, answer_parsed: Any) -> str:
    """The kind of gold by whose rule ``answer`` is right, or an empty string. The texts are tidy, the others sympy's
    (None where nothing was parsed)."""
    if _CLOCK.fullmatch(gold) and _CLOCK.fullmatch(answer):
        return "clock" if _clock(gold) == _clock(answer) else ""
    if _LETTER.fullmatch(gold):
        option = _OPTION.fullmatch(answer)
        return "letter" if option and option.group(1) == gold else ""
    if gold_parsed is None or answer_parsed is None:
        return ""
    if _IMAGINARY.search(gold) and _IMAGINARY.search(answer) and _imaginary_equal(gold_parsed, answer_parsed):
        return "imaginary"
    if _ROOT.search(gold) and _equal_at_points(gold_parsed, answer_parsed):
        return "root"
    return ""


def _clock(text: str) -> list[int]:
    fields = [int(field) for field in text.split(":")]
    return fields + [0] * (3 - len(fields))


def _imaginary_equal(gold: Any, answer: Any) -> bool:
    """Whether both are the same number once the only letter, i, is the imaginary unit."""
    import sympy

    def value(parsed: Any) -> Any:
        letters = {letter for letter in parsed.free_symbols if letter.name == "i"}
        if parsed.free_symbols != letters:
            raise ValueError("has other letters")
        return sympy.expand(parsed.subs(dict.fromkeys(letters, sympy.I)).doit())

    try:
        return bool(value(gold) == value(answer))
    except Exception:  # Whatever sympy cannot do with these two, they are not shown to be equal.
        return False


def _equal_at_points(gold: Any, answer: Any) -> bool:
    """Whether both agree to 12 digits at a few random points at which all letters are positive."""
    try:
        letters = sorted(gold.free_symbols, key=str)
        if not letters or set(letters) != set(answer.free_symbols):
            return False
        draw = random.Random(0)
        for _ in range(_POINTS):
            point = {letter: draw.uniform(0.5, 2.0) for letter in letters}
            left, right = complex(gold.evalf(subs=point)), complex(answer.evalf(subs=point))
            if not abs(left - right) <= 1e-12 * max(abs(left), abs(right)):
                return False
    except Exception:  # Sets, relations, functions without a value: no numbers, so not shown to be equal.
        return False
    return True


_POINTS = 5
_CLOCK = re.compile(r"[0-9]{1,2}:[0-5][0-9](?::[0-5][0-9])?")
_LETTER = re.compile(r"[A-J]")
_OPTION = re.compile(r"(?:\\(?:text|mathrm|textbf|mathbf)\s*\{)?\s*\(?([A-J])\)?\.?\s*\}?")
_IMAGINARY = re.compile(r"(?<![A-Za-z\\])i(?![A-Za-z])")
# A power with a root in it, of something in brackets: \left(\frac{r}{s}\right)^{0.5}, (1+r/s)^{3/2}.
_ROOT = re.compile(r"[)\]}]\s*\^\s*\{?\s*-?(?:[0-9]*\.[0-9]|[0-9]+\s*/|\\frac)")
