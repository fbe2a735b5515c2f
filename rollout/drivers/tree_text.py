r"""What the text of a path says about going on: an answer in a box, and endless repetition.

Both look at a path, never at one segment of it: ``\boxed{4`` may end one segment and ``2}`` begin the next.
"""

from __future__ import annotations

from collections import Counter

REPEATED_CHARACTERS, REPEATS = 32, 8
"""A text loops when a window of so many characters occurs so often in it; windows may overlap."""


def has_box(text: str) -> bool:
    r"""Whether ``\boxed{...}`` stands in the text with its braces closed."""
    start = text.find("\\boxed{")
    while start >= 0:
        depth = 0
        for character in text[start:]:
            depth += (character == "{") - (character == "}")
            if depth == 0 and character == "}":
                return True
        start = text.find("\\boxed{", start + 1)
    return False


def loops(text: str) -> bool:
    """Whether some window of the text occurs ``REPEATS`` times."""
    windows = range(len(text) - REPEATED_CHARACTERS + 1)
    counts = Counter(text[at : at + REPEATED_CHARACTERS] for at in windows)
    return max(counts.values(), default=0) >= REPEATS
