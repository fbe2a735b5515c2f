r"""One spelling for what people and models write in many ways, before anything is compared.

\( 5 \), $5$, **5**, \$5, 5.           ->  5
\dfrac12                               ->  \frac12
1 1/2                                  ->  1\frac{1}{2}
1 000, 1\,000                          ->  1000
12^{\mathrm{th}}                       ->  12
k_{\mathrm{B}}, \Bigl(x\Bigr)          ->  k_{B}, (x)
10 cm^2                                ->  10
\sin 30^\circ                          ->  \sin \frac{30\pi}{180}       only beside a trigonometric function
"""

from __future__ import annotations

import re


def tidy(text: str) -> str:
    """``text`` in the spelling that math-verify reads best; both gold and answer go through it."""
    text = text.translate(_SIGNS)
    if _SPACED.fullmatch(text):
        return "".join(text.split())
    if not _ROWS.search(text):
        text = _ESCAPED.sub(r"\\", text)
    for pattern, written in _CHANGES:
        text = pattern.sub(written, text)
    if "circ" in text and _TRIGONOMETRIC.search(text):
        text = _DEGREES.sub(r"\\frac{\1\\pi}{180}", text)
    return text.strip()


def squeezed(text: str) -> str:
    r"""``tidy`` text for comparison letter by letter: no blanks, no ``\left``, no ``\text``.

    A blank between digits stays: ``1 1/2`` is not ``11/2``.
    """
    return _BLANKS.sub("", _TEXT.sub(r"\1", _SIZES.sub("", text)))


def words(text: str) -> str:
    r"""``text`` as plain words in lower case: ``\text{Even.}`` is ``even``; an empty string if there are none."""
    text = _TEXT.sub(r" \1 ", text.replace("$", ""))
    return " ".join(text.split()).strip(" .,;:!\"'`*").lower()


_SIGNS = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
        "\N{MULTIPLICATION SIGN}": r"\times ",
        "\N{DOT OPERATOR}": r"\cdot ",
        "\N{MIDDLE DOT}": r"\cdot ",
        "\N{DIVISION SIGN}": "/",
        "\N{GREEK SMALL LETTER PI}": r"\pi ",
        "\N{INFINITY}": r"\infty ",
        "\N{LESS-THAN OR EQUAL TO}": r"\le ",
        "\N{GREATER-THAN OR EQUAL TO}": r"\ge ",
        "\N{NOT EQUAL TO}": r"\ne ",
        "\N{UNION}": r"\cup ",
        "\N{INTERSECTION}": r"\cap ",
        "\N{ELEMENT OF}": r"\in ",
        "\N{PLUS-MINUS SIGN}": r"\pm ",
        "\N{DEGREE SIGN}": r"^\circ ",
        "\N{SUPERSCRIPT TWO}": "^2",
        "\N{SUPERSCRIPT THREE}": "^3",
        "\N{NO-BREAK SPACE}": " ",
        "\N{NARROW NO-BREAK SPACE}": " ",
        "\N{THIN SPACE}": " ",
        "\N{EURO SIGN}": "",
        "\N{POUND SIGN}": "",
        "\N{YEN SIGN}": "",
    }
)
_FUNCTION = r"sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|log|ln|exp|max|min|gcd|lcm"
_CHANGES = tuple(
    (re.compile(pattern), written)
    for pattern, written in (
        (r"\*\*([^*]{1,200})\*\*", r"\1"),  # bold type
        (r"(?<!\\)\\[()\[\]]", ""),
        (r"\\\$|\$", ""),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\!\s*", ""),
        (r"(?<=[0-9])\\[, ](?=[0-9]{3}(?![0-9]))", ""),
        (r"\\[,;:>]|\\q?quad|~", " "),
        (r"\\[bB]igg?[lrm]?(?![A-Za-z])", ""),
        (rf"\\(?:text|mathrm|operatorname)\s*\{{\s*({_FUNCTION})\s*\}}", r"\\\1 "),
        (r"_\s*\{\s*\\(?:text|mathrm|rm|mathit|mathbf)\s*\{\s*([A-Za-z0-9]+)\s*\}\s*\}", r"_{\1}"),
        (r"_\s*\{\s*\\(max|min)\s*\}", r"_{\1}"),
        (r"_\s*\{?\s*\\(o|s)(?:dot|tar)\b\s*\}?", r"_{\1}"),  # the sun, a star
        (r"(?<=[0-9])\s*[cmdk]m\s?\^\s?\{?[23]\}?\s*$", ""),
        (r"(?<=[0-9])\s*\^?\s*\{?\s*\\(?:text|mathrm|textsuperscript)\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}?", ""),
        (r"^\s*([-+]?[0-9]{1,9})(?:st|nd|rd|th)\s*$", r"\1"),
        (r"^\s*([-+]?[0-9]{1,9})\s+([0-9]{1,9})\s?/\s?([0-9]{1,9})\s*$", r"\1\\frac{\2}{\3}"),
        (r"(?<!\.)[.,;:]?\s*\\?\s*$", ""),
    )
)
_SPACED = re.compile(r"\s*[-+]?[0-9]{1,3}(?:\s[0-9]{3})+\s*")
# Outputs that were escaped twice; in a matrix a double backslash ends a row.
_ESCAPED = re.compile(r"\\\\(?=[A-Za-z])")
_ROWS = re.compile(r"matrix|cases|array|align")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)\b")
_DEGREES = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)")
_TEXT = re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf|textit|emph|rm)\s*\{([^{}]*)\}")
_SIZES = re.compile(r"\\(?:left|right)(?![A-Za-z])")
_BLANKS = re.compile(r"(?<![0-9])\s+|\s+(?![0-9])")
