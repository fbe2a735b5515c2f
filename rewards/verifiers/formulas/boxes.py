r"""Boxes of a text, found by counting braces in one pass.

    \boxed{\frac{1}{2}}     one box, at any depth of braces; \{ and \} do not count
    \fbox{4}                a box, too
    \boxed{\boxed{4}}       the innermost one counts
    \boxed 4                no box
    \boxed{4                unclosed

A regular expression would fail at the depth it was written for. One pass keeps the work linear in the text, however
many boxes a hostile text opens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Box:
    """A box without a box inside."""

    content: str
    """What the braces enclose, without outer blanks."""
    start: int
    """Where the command begins in the text."""
    end: int
    """Where the closing brace ends."""


def find_boxes(text: str) -> tuple[list[Box], bool]:
    """``(innermost boxes in the order of their ends, whether one is left unclosed)``."""
    boxes: list[Box] = []
    opened: list[_Brace] = []
    for token in _TOKEN.finditer(text):
        if token.group().endswith("{") and not token.group().startswith("\\{"):
            opened.append(_Brace(token.start(), token.end(), is_box=len(token.group()) > 1))
        elif token.group() == "}" and opened:
            brace = opened.pop()
            if brace.is_box and not brace.holds_box:
                boxes.append(Box(text[brace.inside : token.start()].strip(), brace.start, token.end()))
            if opened:
                opened[-1].holds_box |= brace.is_box or brace.holds_box
    return boxes, any(brace.is_box for brace in opened)


@dataclass(slots=True)
class _Brace:
    """An open brace, or the command that opens a box."""

    start: int
    inside: int
    is_box: bool
    holds_box: bool = False


# Some outputs escape their backslashes once or twice; the bound keeps a long run of them linear.
_TOKEN = re.compile(r"\\{1,4}(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
