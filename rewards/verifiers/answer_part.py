r"""Where the answer stands in a response: after the thought.

    <think>3+4=7</think>7   ->   7
    7                       ->   7                no thought is allowed, unless one was opened
    3+4=7</think>7          ->   7                the prompt may have opened the thought
    <think>3+4=7            ->   no_think_end     a number inside a thought is not an answer
    a</think>b</think>7     ->   multi_think_end  no piece is taken: a model could offer several answers

Only the text after the thought is judged, because a shorter thought changes what a careless search finds.
"""

from __future__ import annotations

THINK, END_THINK = "<think>", "</think>"

EXTRACTED_MAX = 200
"""Longest ``Judgement.extracted``, in characters; an answer is compared whole and recorded up to here."""


def answer_part(response: str) -> tuple[str | None, str]:
    """``(text after the thought, "")``, or ``(None, reason)`` if the response does not hold exactly one answer part.

    Reasons: ``no_think_end`` (a thought was opened, also again after the end of the first, and not closed),
    ``multi_think_end`` (more than one end of thought), ``empty``.
    """
    if response.count(END_THINK) > 1:
        return None, "multi_think_end"
    if response.rfind(THINK) > response.rfind(END_THINK):
        return None, "no_think_end"
    part = response.rpartition(END_THINK)[2].strip()
    return (part, "") if part else (None, "empty")
