"""Templates of pages that open offline: whatever models, files or settings say is escaped and made visible."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .visible import visible


def environment(*folders: Path) -> Environment:
    """Templates of these folders, and of this one, where the pages' style is (``report.css.j2``)."""
    return Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Markup is what was made here; every other text is made visible first and escaped after.
        finalize=lambda value: value if isinstance(value, Markup) or not isinstance(value, str) else visible(value),
    )
