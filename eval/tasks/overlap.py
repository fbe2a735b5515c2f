r"""Problems of a training set that a test set holds as well, word for word or with other numbers.

    words(text)   runs of letters and single digits of NFKC(text) in lower case, without layout commands and figures
    exact         equal words, run together
    near          |A & B| / |A | B| >= 0.6 for the sets A, B of six words in a row

A near match is mostly the same template with other names or numbers. Only pairs that share six words are compared, by
an index from six words to the test problems that hold them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .problem import Problem

WIDTH = 6
"""Words in a row that are compared."""
THRESHOLD = 0.6
"""Share of common word sequences from which two problems count as near."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """A training problem and a test problem that say the same."""

    train_id: str
    train_source: str
    test_id: str
    test_source: str
    kind: Literal["exact", "near"]
    similarity: float
    """Share of common word sequences; 1 for exact matches."""


def find_overlaps(train: Sequence[Problem], test: Sequence[Problem], threshold: float = THRESHOLD) -> list[Overlap]:
    """The overlaps of two sets, at most one per training problem: the exact one, else the nearest; in train order."""
    texts = [words(statement(problem)) for problem in test]
    spelled: dict[str, int] = {}
    for index, text in enumerate(texts):
        spelled.setdefault("".join(text), index)
    grams = [_grams(text) for text in texts]
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, found in enumerate(grams):
        for gram in found:
            holders[gram].append(index)
    overlaps = []
    for problem in train:
        text = words(statement(problem))
        exact = spelled.get("".join(text)) if text else None
        if exact is not None:
            overlaps.append(_overlap(problem, test[exact], "exact", 1.0))
            continue
        mine = _grams(text)
        shared = Counter(index for gram in mine for index in holders.get(gram, ()))
        nearest = max(
            ((count / (len(mine) + len(grams[index]) - count), -index) for index, count in shared.items()),
            default=(0.0, 0),
        )
        if nearest[0] >= threshold:
            overlaps.append(_overlap(problem, test[-nearest[1]], "near", nearest[0]))
    return overlaps


def statement(problem: Problem) -> str:
    """What is asked: the prompt, or its last message."""
    return problem.prompt if isinstance(problem.prompt, str) else problem.prompt[-1]["content"]


def words(text: str) -> list[str]:
    """The words and digits of a text, in order."""
    text = unicodedata.normalize("NFKC", _FIGURE.sub(" ", text)).lower()
    return _WORD.findall(_LAYOUT.sub(" ", text))


_FIGURE = re.compile(r"\[asy\].*?\[/asy\]|\\begin\{(asy|tikzpicture)\}.*?\\end\{\1\}", re.DOTALL)
_LAYOUT = re.compile(
    r"\\(?:left|right|big{1,2}[lrm]?|displaystyle|textstyle|limits|mathrm|mathbf|mathit|text|textbf|textit|emph|mbox"
    r"|operatorname|q?quad|hspace|vspace|begin|end|dfrac|tfrac|frac)(?![a-z])"
)
_WORD = re.compile(r"[^\W\d_]+|\d")


def _grams(text: Sequence[str]) -> set[tuple[str, ...]]:
    """Every ``WIDTH`` words in a row; a shorter text is one such sequence."""
    if not text:
        return set()
    return {tuple(text[start : start + WIDTH]) for start in range(max(1, len(text) - WIDTH + 1))}


def _overlap(train: Problem, test: Problem, kind: Literal["exact", "near"], similarity: float) -> Overlap:
    return Overlap(train.id, train.source, test.id, test.source, kind, similarity)
