"""The two formats of fork and join: where threads begin in what was written, and how their text comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ..driver import Piece
from ..records import Group, Kind, Origin, Segment, Stop
from .fork_markers import ForkMarkers
from .threads import last_index, listed_numbers


@dataclass(frozen=True, kw_only=True)
class ForkFormat(ForkMarkers):
    """What a closed sequence asks for, and what its threads return to it."""

    format: Literal["tags", "calls"] = "tags"
    """Whose forks and joins: ThreadWeaver's or Adaptive Parallel Reasoning's."""
    threads: int = 0
    """Threads of every fork; 0 reads them from the list the model wrote."""
    max_threads: int = 16
    """Most threads of one fork; items of a list beyond it are not started."""
    keep_markers: bool = True
    """Whether the tokens that end a list and a thread stay in the text of a join."""

    def starts(self, tip: Segment) -> list[Piece]:
        """What each thread of a sequence begins with; nothing where it does not fork."""
        if tip.stop is not Stop.STOP_TOKEN:
            return []
        ids = tip.ids.tolist()
        opened = last_index(ids, self.list_open)
        if self.format == "calls":
            at = [i for i, token in enumerate(ids) if token == self.item and i > opened >= 0]
            spans = [Origin(tip.id, i + 1, j) for i, j in pairwise([*at, len(ids) - 1]) if i + 1 < j]
            return list(spans[: self.max_threads])
        if self.threads:
            return [self.header(number) for number in range(1, self.threads + 1)]
        numbers = listed_numbers(ids[opened + 1 :], self.item, dict(self.texts))
        return [self.header(number) for number in numbers[: self.max_threads]]

    def kept(self, tip: Segment) -> int:
        """Tokens of a sequence that stay before its join."""
        if not self.starts(tip):
            return len(tip)
        if self.format == "calls":
            return last_index(tip.ids.tolist(), self.list_open)
        return len(tip) - (not self.keep_markers)

    def returned(self, group: Group, threads: Sequence[Segment]) -> tuple[tuple[Piece, ...], list[Stop | None]]:
        """What the threads of a fork put in its place, and how those ended that should have closed their tag."""
        pieces: list[Piece] = []
        stops: list[Stop | None] = []
        for rank, thread in enumerate(threads):
            ended = thread.stop is Stop.STOP_TOKEN
            kept = len(thread) - (not self.keep_markers if ended else thread.stop is Stop.EOS)
            if self.format == "calls":
                found = last_index(thread.ids[:kept].tolist(), self.result)
                pieces.append(Origin(thread.id, found + 1, kept) if found >= 0 else self.no_result)
                continue
            assert thread.parent is not None
            header = group.segments[thread.parent]
            if header.kind is Kind.FORCED:
                pieces.append(Origin(header.id, self.between if rank else 0, len(header)))
            pieces.append(Origin(thread.id, 0, kept))
            if not ended:
                pieces.append(self.close_thread)
                stops.append(thread.stop)
        return tuple(piece for piece in pieces if piece_size(piece)), stops


def piece_size(piece: Piece) -> int:
    """Tokens of a piece."""
    return piece.stop - piece.start if isinstance(piece, Origin) else len(piece)
