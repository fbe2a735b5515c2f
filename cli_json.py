"""``--json``: while a command with it runs, standard output holds JSON and nothing else.

Libraries that log to standard output, and verifiers that print, would spoil it for the script that reads it; what they
write goes to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TextIO

import typer


class Stdout:
    """Standard output, which a command with ``--json`` has for itself."""

    json: TextIO | None = None
    """Where JSON goes; None for ``sys.stdout`` as it is."""

    @contextmanager
    def reserve(self) -> Iterator[None]:
        """Send to stderr what others print."""
        before = self.json, sys.stdout
        self.json, sys.stdout = sys.stdout, sys.stderr
        try:
            yield
        finally:
            self.json, sys.stdout = before


stdout = Stdout()


def _reserve(context: typer.Context, as_json: bool) -> bool:
    """Called when the option is read; the root's context ends with the command, however that ends."""
    if as_json and stdout.json is None:
        context.find_root().with_resource(stdout.reserve())
    return as_json


def json_option(text: str) -> Any:
    """The option ``--json`` with this line of help."""
    return typer.Option("--json", help=text, callback=_reserve)


Json = Annotated[bool, json_option("Print JSON for scripts instead of text for people.")]
"""``as_json: Json = False`` gives a command the option."""


def print_json(value: Any) -> None:
    """Print ``value`` where the script reads it."""
    print(json.dumps(value, indent=2, allow_nan=False), file=stdout.json, flush=True)
