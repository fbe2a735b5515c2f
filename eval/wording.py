"""Numbers as people read them, and the sentences of a comparison: shared by the report and the terminal's tables.

Shares are in [0, 1], times in seconds, intervals ``(low, high)``; what is None or not finite becomes a dash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

DASH = "–"
MINUS = "−"
CI = "95% interval "
Number = float | None


def percent(share: Number) -> str:
    """``0.9304`` -> ``93.0%``; never rounded to 0 or 100 where there is more or less."""
    if share is None or not math.isfinite(share):
        return DASH
    if 0 < share < 0.0005:
        return "<0.1%"
    if 0.9995 <= share < 1:
        return ">99.9%"
    return f"{100 * share:.1f}%"


def signed_points(share: Number) -> str:
    """``0.0304`` -> ``+3.0``: a difference of shares in percentage points."""
    return DASH if share is None or not math.isfinite(share) else _minus(f"{_no_negative_zero(100 * share, 1):+.1f}")


def count(value: Number) -> str:
    """A mean number of tokens: ``1,234``, ``118``, ``29.3``."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.1f}"


def ratio(value: Number) -> str:
    """new / base: ``0.25``, ``0.034``, ``12.3``; always at least two digits that matter."""
    if value is None or not math.isfinite(value):
        return DASH
    if 0 < abs(value) < 0.1:
        return f"{value:#.2g}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def interval(ci95: Sequence[float] | None, show: Callable[[Number], str]) -> str:
    """``(0.24, 0.26)`` -> ``0.24 to 0.26``; a dash where there is none."""
    return DASH if ci95 is None else f"{show(ci95[0])} to {show(ci95[1])}"


def bracket(ci95: Sequence[float] | None, show: Callable[[Number], str], before: str = "") -> str:
    """`` (0.24 to 0.26)`` to follow a value, empty where there is no interval."""
    return "" if ci95 is None else f" ({before}{interval(ci95, show)})"


def seconds(*values: Number) -> list[str]:
    """Times in one unit chosen for the largest, three digits each: ``["24.1 µs", "5.9 µs"]``."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    top = max(map(abs, known), default=1.0)
    scale, unit = next(((s, u) for s, u in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")) if top >= s), (1e-9, "ns"))
    return [DASH if v is None or not math.isfinite(v) else f"{_three_digits(v / scale)} {unit}" for v in values]


def from_to(*shown: str) -> str:
    """``118 → 29.3``; a unit both ends share is written once: ``24.1 → 5.9 µs``."""
    units = {text.rpartition(" ")[2] for text in shown if " " in text}
    if len(units) == 1 and all(" " in text for text in shown):
        return f"{' → '.join(text.rpartition(' ')[0] for text in shown)} {units.pop()}"
    return " → ".join(shown)


def token_change(value: Number) -> str:
    """What a token ratio means in words: ``75% fewer tokens``."""
    if value is None or not math.isfinite(value):
        return "tokens that cannot be compared"
    change = round(100 * (value - 1))
    if change == 0:
        return "about as many tokens"
    return f"{abs(change)}% {'fewer' if change < 0 else 'more'} tokens"


class Headline(NamedTuple):
    """A comparison in words."""

    claim: str
    """One clause without numbers of accuracy, for a heading."""
    detail: str
    """One sentence with the numbers and their intervals."""


def comparison_headline(block: Mapping[str, Any], labels: tuple[str, str] = ("base", "trained")) -> Headline:
    """The verdict of one block of a comparison (``laconic.eval.paired.compare_block``)."""
    accuracy, tokens = block["accuracy"], block["tokens"]
    base, new = (the_model(label) for label in labels)
    change = token_change(tokens["ratio"])
    if accuracy["verdict"] == "undecided":
        claim = f"Undecided: {new} may or may not be as accurate as {base}; it writes {change}"
    else:
        compared = "less accurate than" if accuracy["verdict"] == "inferior" else _kept(accuracy)
        claim = f"{_capital(new)} is {compared} {base} and writes {change}"
    detail = (
        f"{_capital(new)} is right {percent(accuracy['new'])} of the time, {base} {percent(accuracy['base'])}: a "
        f"difference of {signed_points(accuracy['delta'])} points{bracket(accuracy['ci95'], signed_points, CI)}. "
        f"An answer takes {count(tokens['new_mean'])} tokens instead of {count(tokens['base_mean'])}, "
        f"a ratio of {ratio(tokens['ratio'])}{bracket(tokens['ratio_ci95'], ratio, CI)}."
    )
    return Headline(claim, detail)


def evaluation_headline(block: Mapping[str, Any], name: str) -> Headline:
    """One evaluation in words (a block of ``summary.json``)."""
    accuracy, tokens = block["accuracy"]["avg_at_k"], block["tokens"]
    claim = f"{name} is right {percent(accuracy['value'])} of the time with {count(tokens['mean'])} tokens per answer"
    detail = (
        f"Accuracy {percent(accuracy['value'])}{bracket(accuracy['ci95'], percent, CI)}; "
        f"mean length {count(tokens['mean'])} tokens{bracket(tokens['mean_ci95'], count, CI)}; "
        f"{percent(tokens['trunc_rate'])} of the responses were cut at the cap and count as not right."
    )
    return Headline(claim, detail)


def margin_words(margin: float) -> str:
    """``0.01`` -> ``1 point``."""
    return f"{100 * margin:g} point" + ("" if margin == 0.01 else "s")


def the_model(label: str) -> str:
    """Roles get an article, names of runs stay as they are."""
    return f"the {label} model" if label in ("base", "trained", "new") else label


def _kept(accuracy: Mapping[str, Any]) -> str:
    """How a model that is non-inferior compares, its comparative included."""
    low, high = accuracy["ci95"]
    if low > 0:
        return "more accurate than"
    if high < 0:
        return f"less than {margin_words(accuracy['margin'])} less accurate than"
    return "as accurate as"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:] if text.startswith("the ") else text


def _three_digits(value: float) -> str:
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 4)}f}"


def _no_negative_zero(value: float, digits: int) -> float:
    return round(value, digits) + 0.0


def _minus(text: str) -> str:
    return text.replace("-", MINUS)
