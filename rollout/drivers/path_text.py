"""What the text of a path says: whether an answer stands in it, whether it goes round in circles.

Texts are joined token by token, so that what straddles two tokens, or two segments, is found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..records import Ids

BOXED = "\\boxed{"


def token_texts(tokenizer: Any) -> tuple[str, ...]:
    """Token id -> its text. Characters outside ASCII that several tokens share are not readable in it."""
    return tuple(tokenizer.batch_decode([[token] for token in range(len(tokenizer))]))


def text_of(texts: Sequence[str], ids: Ids) -> str:
    """The text of some tokens; an id beyond the vocabulary, as padded models have, has none."""
    return "".join(texts[token] for token in ids.tolist() if token < len(texts))


def has_boxed(text: str) -> bool:
    r"""Whether the text holds a ``\boxed{...}`` whose braces are closed."""
    start = text.find(BOXED)
    while start >= 0:
        depth = 0
        for character in text[start + len(BOXED) - 1 :]:
            depth += (character == "{") - (character == "}")
            if depth == 0:
                return True
        start = text.find(BOXED, start + 1)
    return False


def repeats(text: str, window: int = 32, times: int = 8) -> bool:
    """Whether some ``window`` characters occur ``times`` times; occurrences may overlap."""
    counts = Counter(text[at : at + window] for at in range(len(text) - window + 1))
    return any(count >= times for count in counts.values())
