r"""What would keep the algebra busy for hours: refused before it is parsed.

    9^{9^{9^{9}}}      too_large   a tower of numbers
    2^{1000000}        too_large   a number of more than 10,000 digits
    1000000!           too_large   a factorial of more than 4 digits, of a power or of a factorial
    (x+1)^{50000}      too_large   a power of anything but a number with an exponent above 2,500
    ((((...))))        too_deep    more than 10 levels of brackets, or 4 in a row; x^x^x^x^x
    \sum_{k=1}^{9} k   unevaluated a sum, product, integral or limit, if the gold has none
    1+1+1+...+1        too_long    more than 200 characters, or three times the gold if that is more

This is a filter, not a proof: what slips through is ended by the deadline of the worker pool.
"""

from __future__ import annotations

import math
import re

LONGEST = 200
"""Longest answer that is parsed, in characters, unless the gold is longer than a third of it."""
DEEPEST = 10
"""Most levels of brackets; the time of the parser may double with each."""
MOST_DIGITS = 10_000
"""Most digits of a power of integers."""


def hazard(text: str, longest: int = LONGEST) -> str:
    """Why ``text`` is not parsed: ``too_long``, ``too_deep``, ``too_large``; empty if it is harmless."""
    if len(text) > longest:
        return "too_long"
    if _depth(text) > DEEPEST or _IN_A_ROW.search(text):
        return "too_deep"
    return "too_large" if _large(_LOOSE.sub("", text)) else ""


def unevaluated(gold: str, answer: str) -> bool:
    """Whether ``answer`` leaves a calculation to the verifier that ``gold`` does not hold."""
    return bool(_CALCULATION.search(answer)) and not _CALCULATION.search(gold)


def _depth(text: str) -> int:
    depth = deepest = 0
    for sign in text:
        if sign in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif sign in ")]}":
            depth = max(0, depth - 1)
    return deepest


def _large(text: str) -> bool:
    if _LARGE_FACTORIAL.search(text):
        return True
    for power in _POWER.finditer(text):
        exponent = _operand(text, power.end())
        if _is_number(exponent) and _log10_of_power(_base(text, power.start()), exponent) > MOST_DIGITS:
            return True
    return False


def _log10_of_power(base: str, exponent: str) -> float:
    """An upper estimate of the digits of base^exponent; anything but a number counts as a base of 10,000."""
    inner = _POWER.search(exponent)
    if inner is None:
        value = float(exponent) if _DECIMAL.fullmatch(exponent) else _product(exponent)
    else:
        inner_base, inner_exponent = _base(exponent, inner.start()), _operand(exponent, inner.end())
        digits = _log10_of_power(inner_base, inner_exponent)
        value = 10.0**digits if digits < 10 else math.inf
    return value * math.log10(max(float(base), 1.0) if _DECIMAL.fullmatch(base) else 1e4)


def _product(text: str) -> float:
    """The product of the numbers in ``text``: at least the value of what is written with them by + - * /."""
    return math.prod(max(2.0, float(number)) for number in _NUMBER.findall(text))


def _operand(text: str, at: int) -> str:
    """What stands at ``at``: a group in brackets without them, a number, or one sign."""
    if text[at : at + 1] not in tuple(_CLOSING):
        number = _NUMBER.match(text, at)
        return number.group() if number else text[at : at + 1]
    closing, depth = _CLOSING[text[at]], 0
    for end in range(at, len(text)):
        depth += (text[end] == text[at]) - (text[end] == closing)
        if depth == 0:
            return text[at + 1 : end]
    return text[at + 1 :]


def _base(text: str, end: int) -> str:
    """What stands before ``end``: a number, or the group in brackets without them; empty if it is something else."""
    closing = text[end - 1 : end]
    if closing not in _OPENING:
        number = _LAST_NUMBER.search(text, 0, end)
        return number.group() if number else ""
    depth = 0
    for start in range(end - 1, -1, -1):
        depth += (text[start] == closing) - (text[start] == _OPENING[closing])
        if depth == 0:
            return text[start + 1 : end - 1]
    return ""


def _is_number(text: str) -> bool:
    return bool(text) and not _LETTER.search(_COMMAND.sub("", text))


_CLOSING = {"{": "}", "(": ")", "[": "]"}
_OPENING = {closing: opening for opening, closing in _CLOSING.items()}
_IN_A_ROW = re.compile(r"[{(\[]{4}|(?:\^\s?\w\s?){4}")
_CALCULATION = re.compile(r"\\(?:sum|prod|i{0,2}int|oint|lim)(?![A-Za-z])")
_LOOSE = re.compile(r"\s|\\left|\\right|\\[,;:!]|\$")
_POWER = re.compile(r"\^|\*\*")
_LETTER = re.compile(r"[A-Za-z]")
_COMMAND = re.compile(r"\\(?:cdot|times|[dt]?frac|div)")
_DECIMAL = re.compile(r"[0-9]{1,300}(?:\.[0-9]{1,300})?")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_LAST_NUMBER = re.compile(r"(?<![0-9.])[0-9]+(?:\.[0-9]+)?$")
# Of five digits or more; of a group that holds a power or a factorial; the factorial of a factorial. The same for
# binomials.
_LARGE_FACTORIAL = re.compile(r"[0-9]{5,}[)}\]]*!|[!^][^()]{0,200}\)!|!!|binom\{?[0-9]{5,}|binom\{[^{}]{0,200}[!^]")
