"""``python -m laconic``: the same as the ``laconic`` command."""

from .cli import main

main()
