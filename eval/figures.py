"""A matplotlib figure as a PNG file and as SVG text for inside an HTML page.

Inline SVG takes the page's colours: the palette's constants become CSS variables, so one figure serves light and dark
pages. Nothing here or in ``plots.py`` touches pyplot or matplotlib's settings.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from matplotlib.figure import Figure

from ..atomic import write_whole
from .visible import visible

INK, MUTED, RULE, PAPER = "#1f2430", "#667085", "#d9dde5", "#ffffff"
BASE, TRAINED = "#0072b2", "#d55e00"
"""The two sides of every comparison: Okabe and Ito's blue and vermilion, told apart under every colour blindness."""
CONTROLS = ("#009e73", "#8a6fb0", "#b08d00")
"""Further models, in order."""

_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    PAPER: "--paper",
    BASE: "--base",
    TRAINED: "--trained",
    **{colour: f"--control-{index}" for index, colour in enumerate(CONTROLS, start=1)},
}
"""CSS variables the page defines for light and dark."""

_DROPPED = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", re.DOTALL)
_COLOUR = re.compile("|".join(map(re.escape, _VARIABLES)), re.IGNORECASE)
_REFERENCE = re.compile(r'(\bid="|url\(#|xlink:href="#)([^")]+)')


def save_png(figure: Figure, path: Path, dpi: int = 160) -> None:
    """Write ``path``, whole or not at all, on white."""
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png", dpi=dpi, facecolor=PAPER))


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an ``<svg>`` element without a fixed size; ``name`` keeps its ids apart from other figures'.

    ``name`` and ``description`` are ours, never a model's: the description is escaped, the name must be an identifier.
    """
    if not name.isidentifier():
        raise ValueError(f"the name of a figure is {name!r} but must be an identifier, such as 'training'")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    figure.set_layout_engine("none")  # it is laid out now; the next drawing need not solve that again
    svg = _DROPPED.sub("", buffer.getvalue()).strip()
    svg = _COLOUR.sub(lambda match: f"var({_VARIABLES[match[0].lower()]})", svg)
    ids: dict[str, str] = {}

    def renamed(match: re.Match[str]) -> str:
        start = match[1].removeprefix("xlink:")
        return f"{start}{ids.setdefault(match[2], f'{name}-{len(ids)}')}"

    svg = _REFERENCE.sub(renamed, svg)
    head, rest = svg.split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', head)
    assert view_box is not None, "matplotlib writes a viewBox"
    return f'<svg {view_box[0]} role="img" aria-label="{_attribute(description)}">{rest}'


def label(text: str, longest: int = 40) -> str:
    """A name as matplotlib can draw it: nothing it has no glyph for by nature, no formulas, one line."""
    text = visible(text).replace("\n", " ").replace("\t", " ").replace("$", r"\$")
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
