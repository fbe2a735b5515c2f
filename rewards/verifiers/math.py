r"""`math` and `math_untagged`: the answer is a formula in a box, judged by what it means. For training.

    <think>..</think> So \boxed{\frac{1}{2}}      is 0.5, 1/2, \dfrac12
    \boxed{\frac{1}{2}}                           no_think_end for `math`; an answer for `math_untagged`

`math` is for models that write thoughts: a response must hold exactly one end of a thought. `math_untagged` is for
models that do not. Several boxes must hold the same answer: otherwise a model could offer two. Where the answer is
taken from: `formulas.extract`; how it is compared: `formulas.equality`.
"""

from __future__ import annotations

from ..verdict import Judgement, Verdict
from .answer_part import EXTRACTED_MAX
from .formulas.equality import compare
from .formulas.extract import Found, strict

KNOWN_PAIRS = (
    ("<think>36*2</think>It takes \\boxed{72} eggs.", "72", Verdict.RIGHT),
    ("<think>x</think>\\boxed{2\\sqrt{2}}", "\\sqrt{8}", Verdict.RIGHT),
    ("<think>x</think>\\boxed{(1,2)}", "(2,1)", Verdict.WRONG),
    ("<think>so \\boxed{72}", "72", Verdict.UNREADABLE),
)
"""``(response, gold, verdict)``: what every worker checks before it judges anything."""

MOST_SPELLINGS = 8
"""Different boxes that are compared with the last; a response with more of them is wrong."""


def judge(response: str, gold: str) -> Judgement:
    """Compare the boxes after the thought with ``gold``.

    Reasons: see ``formulas.extract`` and ``formulas.equality``, and ``multi_box`` for boxes with different answers.
    """
    return _judge(strict(response), gold)


def judge_untagged(response: str, gold: str) -> Judgement:
    """As ``judge``, of a model that writes no thoughts; one that was opened must still be closed."""
    return _judge(strict(response, thinks=False), gold)


def _judge(found: Found, gold: str) -> Judgement:
    if not found.answers:
        return Judgement(Verdict.UNREADABLE, reason=found.reason)
    answer = found.answers[-1]
    others = set(found.answers).difference([answer])
    if len(others) > MOST_SPELLINGS or not all(compare(answer, other)[0] for other in others):
        return Judgement(Verdict.WRONG, answer[:EXTRACTED_MAX], "multi_box")
    right, reason = compare(gold, answer)
    return Judgement(Verdict.RIGHT if right else Verdict.WRONG, answer[:EXTRACTED_MAX], reason)
