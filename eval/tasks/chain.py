"""`chain`: arithmetic modulo 10, worked off from left to right.

    3+4*2-1=   ->   3+4=7,7*2=4,4-1=3   ->   3

The level is the number of operations. A state of one digit and one new operand a step: easy to write down, and an
error in any step spoils the answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from .problem import ProceduralTask

OPERATIONS = {"+": lambda a, b: (a + b) % 10, "-": lambda a, b: (a - b) % 10, "*": lambda a, b: (a * b) % 10}


def draw(level: int, entropy: str) -> tuple[str, str]:
    """(prompt, gold) of one chain with ``level`` operations."""
    rng = random.Random(entropy)
    prompt = str(rng.randrange(10))
    for _ in range(level):
        prompt += rng.choice("+-*") + str(rng.randrange(10))
    prompt += "="
    return prompt, steps(prompt)[-1][-1]


def steps(prompt: str, noted: Callable[[int], int] = int) -> list[str]:
    """The steps of one pass: ``"3+4*2="`` -> ``["3+4=7", "7*2=4"]``; ``noted(result)`` is what gets written down."""
    value, written = int(prompt[0]), []
    for operation, operand in zip(prompt[1:-1:2], prompt[2:-1:2], strict=True):
        result = noted(OPERATIONS[operation](value, int(operand)))
        written.append(f"{value}{operation}{operand}={result}")
        value = result
    return written


def guess(unfinished: str) -> str:
    """The best answer an unfinished pass supports: the last result, before the first one the number it starts from."""
    done = [step for step in unfinished.split(",") if step[-2:-1] == "="]
    return done[-1][-1] if done else unfinished[0]


CHAIN = ProceduralTask("chain", tuple(range(1, 7)), draw, steps, guess)
