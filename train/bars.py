"""The bar of a command that samples: on standard error, silent when asked to be and where nobody watches a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn


def sampling_bar(counted: str, *columns: ProgressColumn, quiet: bool, transient: bool = False) -> Progress:
    """A context manager that counts ``counted``; ``columns`` stand to the right. ``transient``: it leaves no trace."""
    console = Console(stderr=True)
    return Progress(
        TextColumn(counted),
        BarColumn(),
        MofNCompleteColumn(),
        *columns,
        console=console,
        disable=quiet or not console.is_terminal,
        transient=transient,
    )
