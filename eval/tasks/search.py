"""`search`: try candidates in turn until one fits; most attempts fail.

    @*7+3=4;1=   ->   1*7=7,7+3=0,2*7=4,4+3=7,3*7=1,1+3=4>3   ->   3

Find the @ for which the equation holds modulo 10, starting from 1 and counting up. The level is the number of
attempts it takes. A pass ends when an attempt hits the target, and ``>`` names the candidate that did. How long the
work is depends on what is found on the way, not only on the length of the prompt as in `chain`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from .chain import OPERATIONS
from .problem import ProceduralTask


def draw(level: int, entropy: str) -> tuple[str, str]:
    """(prompt, gold) of one equation whose first solution is attempt number ``level``."""
    rng = random.Random(entropy)
    while True:
        first, second = rng.choice("+-*") + str(rng.randrange(10)), rng.choice("+-*") + str(rng.randrange(10))
        start, target = rng.randrange(10), rng.randrange(10)
        prompt = f"@{first}{second}={target};{start}="
        written = steps(prompt)
        if len(written) == level and _value(written[-1]) == str(target):
            return prompt, written[-1][-1]


def steps(prompt: str, noted: Callable[[int], int] = int) -> list[str]:
    """The attempts of one pass, the last one ending in ``>`` and its candidate; ``noted(result)`` is what gets
    written down. After ten attempts without a hit the last candidate stands."""
    first, second, target, start = prompt[1:3], prompt[3:5], prompt[6], int(prompt[8])
    written: list[str] = []
    for attempt in range(10):
        candidate = (start + attempt) % 10
        half = noted(OPERATIONS[first[0]](candidate, int(first[1])))
        value = noted(OPERATIONS[second[0]](half, int(second[1])))
        written.append(f"{candidate}{first}={half},{half}{second}={value}")
        if str(value) == target:
            break
    written[-1] += f">{candidate}"
    return written


def guess(unfinished: str) -> str:
    """The best answer an unfinished pass supports: the candidate it is trying."""
    attempts = unfinished.split(",")[::2]
    return attempts[-1][0] if attempts[-1] else attempts[-2][0]


def _value(attempt: str) -> str:
    """What the whole left side came to in an attempt."""
    return attempt.split(">")[0][-1]


SEARCH = ProceduralTask("search", tuple(range(1, 6)), draw, steps, guess)
