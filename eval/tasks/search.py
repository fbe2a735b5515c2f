"""`search`: try candidates in turn until one fits; most attempts fail.

    @*7+3-4;1=   ->   1*7=7+3=0-4=6,2*7=4+3=7-4=3,3*7=1+3=4-4=0>3   ->   3

Find the @ for which the expression is 0 modulo 10, starting from 1 and counting up. The level is the number of
attempts it takes. A pass ends when an attempt comes to 0, and ``>`` names the candidate that did. How long the work is
depends on what is found on the way, not only on the length of the prompt as in `chain`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from .chain import OPERATIONS
from .problem import ProceduralTask


def draw(level: int, entropy: str) -> tuple[str, str]:
    """(prompt, gold) of one expression whose first root is attempt number ``level``."""
    rng = random.Random(entropy)
    while True:
        operations = "".join(rng.choice(kinds) + str(rng.randrange(10)) for kinds in ("+-*", "+-*", "+-"))
        prompt = f"@{operations};{rng.randrange(10)}="
        written = steps(prompt)
        if len(written) == level and _value(written[-1]) == 0:
            return prompt, written[-1][-1]


def steps(prompt: str, noted: Callable[[int], int] = int) -> list[str]:
    """The attempts of one pass, the last one ending in ``>`` and its candidate; ``noted(result)`` is what gets
    written down. After ten attempts without a root the last candidate stands."""
    operations, start = prompt[1:7], int(prompt[8])
    written: list[str] = []
    for attempt in range(10):
        candidate = value = (start + attempt) % 10
        written.append(str(candidate))
        for operation, operand in zip(operations[::2], operations[1::2], strict=True):
            value = noted(OPERATIONS[operation](value, int(operand)))
            written[-1] += f"{operation}{operand}={value}"
        if value == 0:
            break
    written[-1] += f">{candidate}"
    return written


def guess(unfinished: str) -> str:
    """The best answer an unfinished pass supports: the candidate it is trying."""
    attempts = unfinished.split(",")
    return attempts[-1][0] if attempts[-1] else attempts[-2][0]


def _value(attempt: str) -> int:
    """What the expression came to in an attempt."""
    return int(attempt.partition(">")[0][-1])


SEARCH = ProceduralTask("search", tuple(range(1, 6)), draw, steps, guess)
