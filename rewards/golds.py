"""Golds that no answer can be right against: found when data are loaded, so that they can be dropped and reported.

    faults = unusable_golds([row["answer"] for row in rows], "math", pool)
    rows = [row for index, row in enumerate(rows) if index not in faults]

A gold that its verifier cannot read gives reward 0 for ever, and lowers a measured accuracy without a trace.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import DataError
from .pool import VerifierPool
from .verdict import Item, Verdict
from .verifiers import VERIFIERS, math_gold
from .verifiers.choice import option

MATHEMATICAL = ("math", "math_untagged", "math_eval")
"""Verifiers whose golds are formulas."""
GOLD_VERIFIER = "math_gold"
"""What a pool must hold to check the golds of these."""


def gold_fault(gold: str, verifier: str) -> str:
    """Why ``verifier`` cannot judge answers against ``gold``; an empty string if it can.

    Runs in this process: for golds of unknown origin use ``unusable_golds`` with a pool.
    """
    if not gold.strip():
        return "empty"
    if verifier in MATHEMATICAL:
        return math_gold.judge("", gold).reason
    if verifier == "choice":
        return "" if option(gold) else "no_letter"
    if verifier == "number":
        try:
            VERIFIERS["number"]("0", gold)
        except DataError:
            return "no_number"
    return ""


def unusable_golds(golds: Sequence[str], verifier: str, pool: VerifierPool | None = None) -> dict[int, str]:
    """Index -> reason of every gold that ``verifier`` cannot judge against.

    Formulas are parsed in ``pool``, which must have been started with ``math_gold``; without a pool in this process,
    where a hostile gold may take long. Each different gold is looked at once.
    Reasons: ``empty``, ``unparsed``, ``no_number``, ``no_letter``, ``too_long``, ``too_deep``, ``too_large``,
    ``timeout``.
    """
    different = list(dict.fromkeys(golds))
    if pool is None or verifier not in MATHEMATICAL:
        faults = {gold: gold_fault(gold, verifier) for gold in different}
    else:
        judgements = pool.judge([Item("", gold, GOLD_VERIFIER) for gold in different])
        faults = {
            gold: "timeout" if judgement.verdict is Verdict.TIMEOUT else judgement.reason
            for gold, judgement in zip(different, judgements, strict=True)
        }
    return {index: faults[gold] for index, gold in enumerate(golds) if faults[gold]}
