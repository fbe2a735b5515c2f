"""Writes ``docs/configuration.md`` from the settings' dataclasses: ``python docs/configuration.py``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from laconic.train.settings import Settings
from laconic.train.settings_io import field_docs, own_fields, plain

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Settings

Every key of a training run's YAML file with its default. A file holds only what differs from them; `key=value` on the
command line wins over the file. An unknown key is an error that names the nearest known one.

In a section with a `name`, the name picks a method, whose options are the other keys of the section. Besides the names
listed it may be `module:Class`, a dataclass of your own. `name` alone may also be written as `credit: rloo`.

This page is written by `python docs/configuration.py`.
"""


def page() -> str:
    """The text of the page."""
    return "\n".join([HEAD, *_section(Settings, "", "Top level")]).rstrip() + "\n"


def _section(cls: type, path: str, title: str) -> Iterator[str]:
    """A table of the plain keys of ``cls``, then its subsections, then the methods to choose from."""
    docs, hints = field_docs(cls), get_type_hints(cls)
    known = [spec for spec in fields(cls) if spec.init]
    inner = [spec for spec in known if "table" in spec.metadata or is_dataclass(hints[spec.name])]
    plain = [spec for spec in known if spec not in inner]
    yield f"## {title}\n"
    if plain:
        yield from _table(path, plain, docs)
    for spec in inner:
        where, meaning = f"{path}{spec.name}", docs.get(spec.name, "")
        if "table" not in spec.metadata:
            yield from _section(hints[spec.name], f"{where}.", f"`{where}`: {_lower(meaning)}")
            continue
        yield f"## `{where}`: {_lower(meaning)}\n"
        for name, method in spec.metadata["table"].items():
            default = " (default)" if name == spec.metadata["default"] else ""
            yield f"### `{where}.name: {name}`{default}\n"
            yield from _table(f"{where}.", own_fields(method), field_docs(method))


def _table(path: str, specs: list[Field[Any]], docs: dict[str, str]) -> Iterator[str]:
    if not specs:
        yield "No options.\n"
        return
    yield "| key | default | meaning |\n|---|---|---|"
    for spec in specs:
        yield f"| `{path}{spec.name}` | {_default(spec)} | {docs.get(spec.name, '').replace('``', '`')} |"
    yield ""


def _default(spec: Field[Any]) -> str:
    value = spec.default if spec.default is not MISSING else None
    if spec.default_factory is not MISSING:
        value = spec.default_factory()
    elif spec.default is MISSING:
        return "required"
    text = yaml.safe_dump(plain(value), default_flow_style=True)
    return f"`{text.removesuffix('...').strip().removesuffix('...').strip()}`"


def _lower(text: str) -> str:
    """For after a colon."""
    return (text[:1].lower() + text[1:]).removesuffix(".").replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
