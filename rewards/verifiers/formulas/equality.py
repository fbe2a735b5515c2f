r"""Is this answer that gold? The comparison all mathematical verifiers share.

    1. two plain numbers       compared as decimals                         fast path, see plain.py
    2. the same letters        after tidying up the spelling                1/2 for 1/2
    3. a gold in words         no further comparison                        even is not 2\cdot n
    4. hazards                 refused unread                               9^{9^{9^9}}
    5. math-verify             parses both and compares them with sympy     2\sqrt{2} for \sqrt{8}
    6. second grader           kinds of gold math-verify fails on, by name

Source: the package math-verify (github.com/huggingface/Math-Verify), with its own time limits off: they rely on
signals, which work in a main thread only. The worker pool's deadline takes their place.
"""

from __future__ import annotations

import functools
import logging
import re
from typing import Any

from .hazards import LONGEST, hazard, unevaluated
from .plain import plain_number
from .second import second_grader
from .spelling import squeezed, tidy, words

CACHED = 4096
"""Golds and pairs remembered: samples of one group often give the same answer."""


def compare(gold: str, answer: str, *, fast: bool = True) -> tuple[bool, str]:
    """``(whether they are equal, reason)``.

    Reasons of equality: empty, or the kind of gold the second grader decided. Of difference: ``mismatch``,
    ``unparsed`` (no formula in the answer), ``too_long``, ``too_deep``, ``too_large``, ``unevaluated``. ``fast=False``
    leaves out the first two steps, which must not change the verdict on plain numbers.
    """
    longest = max(LONGEST, 3 * len(gold))
    if len(answer) > _SLACK * longest:
        return False, "too_long"
    return _compare(gold, answer, longest, fast)


@functools.lru_cache(CACHED)
def _compare(gold: str, answer: str, longest: int, fast: bool) -> tuple[bool, str]:
    gold, answer = tidy(gold), tidy(answer)
    if fast:
        wanted, given = plain_number(gold), plain_number(answer)
        if wanted is not None and given is not None:
            return (True, "") if wanted == given else (False, "mismatch")
        if gold and squeezed(gold) == squeezed(answer):
            return True, ""
    if is_words(gold):
        return (True, "") if words(gold) == words(answer) else (False, "mismatch")
    danger = hazard(answer, longest) or hazard(gold, longest)
    if not danger and unevaluated(gold, answer):
        danger = "unevaluated"
    if danger:
        return False, danger
    return _algebra(gold, answer)


def is_words(gold: str) -> bool:
    r"""Whether a gold is in words, such as ``\text{Monday}``: math-verify would take it for a product of letters."""
    if _TEXT_ONLY.fullmatch(gold):
        return not any(map(str.isdigit, gold))
    return len(gold) > 3 and bool(_WORDS.fullmatch(gold)) and not _LETTERS.search(gold)


def parses(gold: str) -> bool:
    """Whether math-verify reads a formula in ``gold`` and finds it equal to itself."""
    from math_verify import verify

    parsed = _parse_gold(tidy(gold))
    return _formula(parsed) is not None and bool(verify(parsed, parsed, timeout_seconds=None))


def read_prose(text: str) -> str | None:
    """The last number or formula in a sentence, as written; None if there is none."""
    from math_verify import parse

    _silence()
    parsed = parse(text, parsing_timeout=None)
    return str(parsed[-1]) if _formula(parsed) is not None and isinstance(parsed[-1], str) else None


def _algebra(gold: str, answer: str) -> tuple[bool, str]:
    from math_verify import verify

    gold_parsed, answer_parsed = _parse_gold(gold), _parse_answer(answer)
    if verify(gold_parsed, answer_parsed, timeout_seconds=None):
        return True, ""
    formula = _formula(answer_parsed)
    kind = second_grader(gold, answer, _formula(gold_parsed), formula)
    if kind:
        return True, kind
    return False, "unparsed" if formula is None else "mismatch"


@functools.lru_cache(CACHED)
def _parse_gold(gold: str) -> list[Any]:
    from math_verify import parse

    _silence()
    return parse(f"${gold}$", parsing_timeout=None)


def _parse_answer(answer: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    _silence()
    return parse(rf"$\boxed{{{answer}}}$", [LatexExtractionConfig(boxed_match_priority=0)], parsing_timeout=None)


def _formula(parsed: list[Any]) -> Any | None:
    """The sympy object of a parse; it is followed by its text, and absent if nothing could be parsed."""
    return parsed[0] if parsed and not isinstance(parsed[0], str) else None


def _silence() -> None:
    """No warning per process that the time limits are off: they are off on purpose."""
    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).setLevel(logging.ERROR)


_SLACK = 4
"""How much longer an answer may be before its spelling is tidied up than after."""
_TEXT_ONLY = re.compile(r"\\(?:text|mbox|textbf|mathrm)\s*\{[^{}]{2,}\}")
_LETTERS = re.compile(r"\b[A-Za-z] (?:and|or) [A-Za-z]\b")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*[A-Za-z]{3}[A-Za-z' ,.-]*")
