"""laconic: post-train a reasoning model so that it keeps its accuracy and thinks in far fewer tokens.

Importing it is cheap: a public name is loaded from its module on first use, and torch only by the names that need it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import ConfigError, DataError, LaconicError, RunError
    from .eval.tasks.problem import Problem
    from .rewards.verdict import Item, Judgement, Verdict
    from .rollout.records import Group, Leaf, Rollout, Segment

__version__ = "0.1.0"

_HOME = {
    "ConfigError": "errors",
    "DataError": "errors",
    "Group": "rollout.records",
    "Item": "rewards.verdict",
    "Judgement": "rewards.verdict",
    "LaconicError": "errors",
    "Leaf": "rollout.records",
    "Problem": "eval.tasks.problem",
    "Rollout": "rollout.records",
    "RunError": "errors",
    "Segment": "rollout.records",
    "Verdict": "rewards.verdict",
}
"""Where each public name lives."""

__all__ = [
    "ConfigError",
    "DataError",
    "Group",
    "Item",
    "Judgement",
    "LaconicError",
    "Leaf",
    "Problem",
    "Rollout",
    "RunError",
    "Segment",
    "Verdict",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"laconic has no public name {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
