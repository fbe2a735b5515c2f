r"""Where the answer is in a response, by two policies.

`strict`, for training: the answer is what stands in a box after the thought, and nothing else.

    <think>..</think> \boxed{4}                  4
    \boxed{4}                                    no_think_end      (an answer, where the model writes no thoughts)
    a</think>b</think> \boxed{4}                 multi_think_end
    <think>..</think> It is 4.                   no_box            also if any box is left unclosed
    <think>..</think> \boxed{4}\boxed{}          empty_box
    <think>..</think> \boxed{4} or \boxed{5}     several answers: the caller decides whether they are the same

`lenient`, for evaluation: the text after the last end of thought, if there is one; in it the first of these that is
found:

    \boxed{4}, \fbox{4}, \boxed 4                the last closed box
    <answer>4</answer>                           the last
    #### 4     Answer: 4     A: 4                the last such mark, up to the end of its line
    the answer is 4                              the last such phrase, up to the end of its sentence
    4                                            the whole text, if it is short
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..answer_part import END_THINK, THINK
from .boxes import Box, find_boxes

SHORT = 300
"""Longest text without any mark that is taken for a bare answer, in characters."""
TAIL = 20_000
"""Characters at the end of a text in which marks are looked for: answers stand last, and work stays bounded."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a response gives as its answer."""

    answers: tuple[str, ...] = ()
    """Spellings found; the last one is the answer. Empty if nothing was found."""
    reason: str = ""
    """Why nothing was found."""
    boxed: bool = True
    """Whether the answer is a formula by its place; otherwise it may be a sentence that holds one."""


def strict(response: str, *, thinks: bool = True) -> Found:
    """The boxes after the thought. ``thinks``: whether the model writes thoughts, so that one must have ended."""
    ends = response.count(END_THINK)
    if ends > 1:
        return Found(reason="multi_think_end")
    if ends == 0 and (thinks or THINK in response):
        return Found(reason="no_think_end")
    boxes, unclosed = find_boxes(response.rpartition(END_THINK)[2])
    if unclosed or not boxes:
        return Found(reason="no_box")
    if not all(box.content for box in boxes):
        return Found(reason="empty_box")
    return Found(tuple(box.content for box in boxes))


def lenient(response: str) -> Found:
    """The last answer after the thought, however it is marked; ``answers`` holds the boxes of its last sentence."""
    thought, end, part = response.rpartition(END_THINK)
    if THINK in part:
        return Found(reason="no_think_end")
    part = _END_OF_TURN.split(part, maxsplit=1)[0].strip()
    if not part:
        return Found(reason="empty")
    boxes, unclosed = find_boxes(part)
    if boxes:
        return Found(_last_sentence(part, boxes)) if boxes[-1].content else Found(reason="empty_box")
    tail = part[-TAIL:]
    if bare := _BARE_BOX.findall(tail):
        return Found((bare[-1],))
    if unclosed:
        return Found(reason="no_box")
    for pattern in (_TAG, _MARK, _PHRASE):
        if marked := [match.group(1) for match in pattern.finditer(tail)]:
            answer = _declared(marked[-1])
            return Found((answer,), boxed=not _is_prose(answer)) if answer else Found(reason="no_answer")
    if len(part) > SHORT:
        return Found(reason="no_box")
    return Found((part,), boxed=not _is_prose(part))


def _last_sentence(text: str, boxes: list[Box]) -> tuple[str, ...]:
    """The contents of the last box and of those before it in the same sentence."""
    first = len(boxes) - 1
    while first > 0 and boxes[first - 1].content and not _BREAK.search(text[boxes[first - 1].end : boxes[first].start]):
        first -= 1
    return tuple(box.content for box in boxes[max(first, len(boxes) - _MOST_BOXES) :])


def _declared(text: str) -> str:
    """What is declared the answer in the rest of a line: `The volume is 120. I hope it is correct.` -> `120`."""
    text = _SENTENCE_END.split(text.strip(), maxsplit=1)[0]
    before, copula, after = text.rpartition(" is ")
    return (after if copula and _is_prose(before) else text).strip(" *_:")


def _is_prose(text: str) -> bool:
    """Whether there are words in ``text`` outside of commands: then it may hold a formula, but is none."""
    return bool(_WORD.search(_COMMANDS.sub(" ", text)))


_MOST_BOXES = 20
_END_OF_TURN = re.compile(r"<\|(?:im_end|im_start|endoftext|end_of_text|eot_id|eom_id|end|return)\|>|</s>|<eos>")
_BREAK = re.compile(r"[.!?]\s|\n\s*\n|.{80}", re.DOTALL)
_BARE_BOX = re.compile(r"\\boxed\s+([^\s{}$\\]{1,100}?)[.,]?(?=[\s$]|$)")
_TAG = re.compile(r"<answer>(.{0,2000}?)</answer>", re.DOTALL)
_LINE = r"[\s*_]*([^\n]*)"
_MARK = re.compile(
    rf"""(?:\#\#\#\#[ \t]*(?=[-+$\\(\[{{|.0-9]|[A-Za-z]{{1,2}}\b)    # a header such as "#### Step 1" is no mark
      | \b(?:[Aa]nswer|ANSWER)(?:\s+is)?[ \t*_]*:
      | ^[*_]*(?:The[ ])?(?:[Ff]inal[ ])?[Aa]nswer[*_]*$             # a header
      | ^[*_]*A[*_]*:){_LINE}""",
    re.VERBOSE | re.MULTILINE,
)
_PHRASE = re.compile(rf"\b[Aa]nswer(?:\s+is|\s*=){_LINE}")
_SENTENCE_END = re.compile(r"(?<=[^.\s])[.!]+(?=\s+[A-Z]|\s*$)|\s*\n")
_COMMANDS = re.compile(
    r"\\(?:text|mbox|mathrm|textbf|mathbf|operatorname|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+"
    r"|\b(?:sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|log|exp|sqrt|max|min|gcd|lcm|and|or|inf)\b"
)
_WORD = re.compile(r"[A-Za-z]{3,}|[A-Za-z]'[a-z]")
