"""The fast path: two plain numbers, compared as decimals.

    7    -7    +7    007    7.50    .5    1,000    1,234.5

Numbers of at most 15 digits, 6 of them after the point, with thousands commas or none. In this range the verdict is
that of the slow path: math-verify compares numbers after rounding to 6 decimals, which changes none of these. It is
some hundred times faster, and answers of most benchmarks are such numbers.
"""

from __future__ import annotations

import re
from decimal import Decimal

DIGITS = 15
"""Most digits of a plain number: what the slow path's floats hold exactly."""


def plain_number(text: str) -> Decimal | None:
    """The value of ``text`` if it is one plain number, else None."""
    if len(text) > _LONGEST or not _PLAIN.fullmatch(text):
        return None
    written = text.replace(",", "")
    return Decimal(written) if sum(map(str.isdigit, written)) <= DIGITS else None


_LONGEST = DIGITS + 8
# [0-9], because \d also takes the digits of other scripts.
# With a plus before it, 1,000 is a list for math-verify.
_PLAIN = re.compile(r"(?:-?[1-9][0-9]{0,2}(?:,[0-9]{3})+|[-+]?[0-9]+)(?:\.[0-9]{1,6})?|[-+]?\.[0-9]{1,6}")
