"""Threads in token ids: which call asked for which, which threads a list names, and how long the longest way is.

    anchor      the sampled segment whose closing asked for a call
    T_longest   tokens outside blocks + outlines and wrappers inside + the longest thread of every block
    rho         1 - T_longest / T_total                     the share that ran beside other tokens
    reward      right * (1 + 0.5 * min(rho, 0.2))           ThreadWeaver's; wrong answers gain nothing by threads

Source: ThreadWeaver, arXiv 2512.07843. Its README has the ratio the other way round; its code is as here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..records import Group, Kind, Segment


def anchor_of(group: Group, segment: Segment) -> int:
    """The sampled segment whose closing asked for a sampled one; 0 for the first call of an answer.

    A thread with a context of its own continues nothing: its anchor is the segment that its context was copied from.
    """
    copied, kept, current = 0, segment.parent_off, group.segments[segment.parent or 0]
    while current.kind in (Kind.FORCED, Kind.CONTEXT_COPY):
        copied = current.origin[0].segment if current.origin else copied
        kept, current = current.parent_off, group.segments[current.parent or 0]
    return copied if current.id == 0 and kept == 0 else current.id


def spawned(group: Group) -> dict[int, list[int]]:
    """Anchor -> the sampled segments it asked for, in the order of asking."""
    children: dict[int, list[int]] = {}
    for segment in group.segments:
        if segment.kind is Kind.SAMPLED:
            children.setdefault(anchor_of(group, segment), []).append(segment.id)
    return children


def last_index(ids: Sequence[int], token: int) -> int:
    """Where a token occurs last; -1 where it does not."""
    return max((at for at, found in enumerate(ids) if found == token), default=-1)


def most_of_answer(
    longest: int, forks: int, threads: int, thread_tokens: int, joined: bool, markers: bool
) -> tuple[int, int]:
    """At most so many rows and decoded tokens of one answer.

    joined: threads and lists stay in the text of the answer, so that ``longest`` bounds all of them together, but for
    the threads of the last fork, each of which may take all that is left. markers: the tokens that end them stay too,
    so that each thread that is joined takes one token of the answer at least.
    """
    if not joined:
        return 1 + forks * (threads + 1), (forks + 1) * longest + forks * threads * min(thread_tokens, longest)
    last = longest + (threads - 1) * min(thread_tokens, longest - markers)
    if not markers:
        return 1 + forks * (threads + 1), last + forks * (threads + 1)
    return 1 + threads + max(min((forks - 1) * threads, longest - 2), 0), last


def listed_numbers(ids: Sequence[int], item: int, texts: Mapping[int, str]) -> list[int]:
    """Numbers of a list, ``item 1: ... item 2: ...``, each once, in order; an item without a number is left out.

    ``texts``: the tokens that numbers, white space and colons are written with.
    """
    numbers: dict[int, None] = {}
    for at, token in enumerate(ids):
        if token == item:
            text = ""
            for following in ids[at + 1 :]:
                if following not in texts:
                    break
                text += texts[following]
            if found := re.match(r"\s*(\d+)\s*:", text):
                numbers[int(found[1])] = None
    return list(numbers)


def thread_lengths(ids: Sequence[int], *, block: tuple[int, int], thread: tuple[int, int]) -> tuple[int, int]:
    """(tokens, tokens on the longest way) of a response; ``block`` and ``thread`` are opening and closing tokens.

    Threads do not nest: inside one, any other tag is text. What is not closed ends with the response.
    """
    longest, inside, widest = 0, False, 0
    current: int | None = None
    for token in ids:
        if current is not None and token != thread[1]:
            current += 1
            continue
        longest += 1
        if current is not None:
            widest, current = max(widest, current), None
        elif inside and token == thread[0]:
            current = 0
        elif inside and token == block[1]:
            longest, widest, inside = longest + widest, 0, False
        elif token == block[0]:
            inside = True
    return len(ids), longest + max(widest, current or 0)


def parallel_reward(right: bool, total: int, longest: int) -> float:
    """1 for a right answer and up to 0.1 more for what ran in parallel; 0 for a wrong one."""
    rho = 1 - longest / total if total else 0.0
    return float(right) * (1 + 0.5 * min(rho, 0.2))
