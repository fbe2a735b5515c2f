"""The methods that exist, as ``laconic methods`` lists them.

methods.toml   title, paper, stage, traps, test of each
its own file   formula and source (the docstring), defaults (the dataclass)
benchmarks/results/learning/<id>-<seed>.json   what it did to the tiny thinker, where it was measured
"""

from __future__ import annotations

import difflib
import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .settings_io import field_docs, own_fields, plain, resolve

# Shapes of the story: method -> stage -> table -> dataclass

STAGES = {
    "rollout.driver": ("laconic.rollout.drivers", "DRIVERS"),
    "sampler": ("laconic.train.samplers", "SAMPLERS"),
    "truncation": ("laconic.train.truncation", "TRUNCATIONS"),
    "reward.shaping": ("laconic.rewards.shaping", "SHAPINGS"),
    "reward.selection": ("laconic.rewards.selection", "SELECTIONS"),
    "credit": ("laconic.train.credit", "CREDITS"),
    "objective": ("laconic.train.objectives", "OBJECTIVES"),
}
"""Section of the settings -> module and name of its table. Imported when a method is shown, not when it is listed."""


RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "learning"
"""Result files; a wheel has none."""


@dataclass(frozen=True)
class Method:
    """One published method, or a class of the user's."""

    id: str
    """Its name in configurations: an id, or ``module:Class``."""
    title: str
    paper: str
    """arXiv id; empty where there is none."""
    stage: str
    """A key of ``STAGES``: the section that chooses it. Empty for a class of the user's, which says no section."""
    line: str
    """What it does, in one line."""
    test: str
    """The file that asserts the worked numbers of its source."""
    traps: Sequence[str]
    """What goes wrong when it is used without thought."""

    @property
    def config(self) -> str:
        """A small run that uses it."""
        return f"configs/methods/{self.id}.yaml" if self.stage else ""

    @property
    def status(self) -> str:
        """``tested``: its worked numbers and properties are asserted, and its configuration trains."""
        return "tested" if self.test else "yours"

    def results(self) -> list[dict[str, Any]]:
        """What ``benchmarks/learning.py`` measured, one entry for each seed."""
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob(f"{self.id}-[0-9].json"))]


METHODS = tuple(
    Method(**entry)
    for entry in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["method"]
)


def find(method: str) -> Method:
    """The method with an id, or the class ``module:Class``; ``ConfigError`` names the known ones."""
    if ":" in method:
        cls = resolve(method, {}, "laconic methods show")
        return Method(method, cls.__name__, "", "", description(cls).partition("\n")[0], "", ())
    table = {entry.id: entry for entry in METHODS}
    if method not in table:
        close = difflib.get_close_matches(method, table, n=1)
        hint = f"did you mean {close[0]!r}?; " if close else ""
        raise ConfigError(f"unknown method {method!r}; {hint}known: {', '.join(table)}")
    return table[method]


def method_class(method: Method) -> type:
    """The dataclass behind a method."""
    module, name = STAGES.get(method.stage, ("", ""))
    table: Mapping[str, type] = getattr(import_module(module), name) if module else {}
    return resolve(method.id, table, method.stage)


def as_dict(method: Method) -> dict[str, Any]:
    """Everything about a method, ready for JSON."""
    cls = method_class(method)
    docs = field_docs(cls)
    return {
        **vars(method),
        "config": method.config,
        "status": method.status,
        "results": method.results(),
        "defaults": {f.name: {"value": plain(_default(f)), "meaning": docs.get(f.name, "")} for f in own_fields(cls)},
        "description": description(cls),
    }


def description(cls: type) -> str:
    """The docstring of the method's file: what it does, formula, source."""
    return (sys.modules[cls.__module__].__doc__ or "").strip()


def print_table() -> None:
    """The list for people, by stage."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("id", "arXiv", "tokens", "points"):
        table.add_column(heading, no_wrap=True)
    table.add_column("what it does")
    for stage in STAGES:
        table.add_row(f"[bold]{stage}[/bold]")
        for method in (method for method in METHODS if method.stage == stage):
            table.add_row(method.id, method.paper, *measured(method), method.line)
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"\n{len(METHODS)} methods, all tested; a bold line is the section of the settings that chooses them\n"
        "tokens, points: what each made of the tiny thinker's answers and accuracy (docs/results.md)\n"
        "configurations: configs/methods/<id>.yaml\nmore about one: laconic methods show dot",
        markup=False,
    )


def measured(method: Method) -> tuple[str, str]:
    """Tokens and accuracy against the untrained model, means over seeds; empty where nothing was measured."""
    results = method.results()
    if not results:
        return "", ""
    ratio, change = (
        sum(result[key] for result in results) / len(results) for key in ("token_ratio", "accuracy_change")
    )
    return f"x{ratio:.2f}", f"{100 * change:+.1f}"


def print_method(method: Method) -> None:
    """One method for people."""
    from rich.console import Console

    facts = as_dict(method)
    console = Console(highlight=False, soft_wrap=True)
    paper = f"arXiv {method.paper}" if method.paper else "no paper"
    section = f"section {method.stage}" if method.stage else "the section that chooses it"
    console.print(f"[bold]{method.id}[/bold]: {method.title} ({paper}), {method.status}")
    console.print(f"\n{facts['description']}\n", markup=False)
    console.print(f"settings, in {section} (name: {method.id})", style="bold")
    for name, option in facts["defaults"].items():
        console.print(f"  {name}: {_in_yaml(option['value'])}", markup=False)
        console.print(f"      {option['meaning']}", markup=False, style="dim")
    if not facts["defaults"]:
        console.print("  (no options)")
    if method.traps:
        console.print("\ntraps", style="bold")
    for trap in method.traps:
        console.print(f"  - {trap}", markup=False)
    tokens, points = measured(method)
    if tokens:
        console.print(f"\nmeasured on the tiny thinker: tokens {tokens}, accuracy {points} points (docs/results.md)")
    if method.stage:
        console.print(f"\ntest: {method.test}\ntry it: laconic train {method.config} --dry-run", markup=False)


def _in_yaml(value: Any) -> str:
    """A default as a configuration would have it; a plain word needs no quotes."""
    if isinstance(value, str) and value and "\n" not in value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else "(required)"
