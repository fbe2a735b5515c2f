"""Text of unknown origin, made safe to look at."""

from __future__ import annotations

import unicodedata

_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories of control and format characters, halves of surrogate pairs, what is not assigned, separators."""


def visible(text: str) -> str:
    """The text with every character that has no picture or turns the text around written as its code point.

    Line feeds and tabs stay. A model may write anything: escape sequences, overrides of the writing direction, halves
    of surrogate pairs that no file can hold.
    """
    return "".join(f"⟨U+{ord(c):04X}⟩" if c not in "\n\t" and unicodedata.category(c) in _UNSEEN else c for c in text)
