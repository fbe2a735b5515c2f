"""Tasks: where problems come from."""

from .chain import CHAIN
from .problem import Message, Problem, ProceduralTask, Split, split_of
from .search import SEARCH

PROCEDURAL: dict[str, ProceduralTask] = {task.name: task for task in (CHAIN, SEARCH)}
"""The procedural families, by name."""

__all__ = ["CHAIN", "SEARCH", "PROCEDURAL", "Message", "Problem", "ProceduralTask", "Split", "split_of"]
