"""Outcome verifiers: ``judge(response, gold) -> Judgement``, pure and free of torch. They run in a worker process.

A verifier is an id of ``VERIFIERS`` or the import path ``module:function`` of your own. A module may hold
``KNOWN_PAIRS``, a tuple of ``(response, gold, verdict)``; a worker that judges one of them otherwise does not start.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

from ...errors import ConfigError
from ..verdict import Item, Judgement, Verdict
from . import choice, exact, math, math_eval, math_gold, number, text

Verifier = Callable[[str, str], Judgement]

VERIFIERS: dict[str, Verifier] = {
    "exact": exact.judge,
    "number": number.judge,
    "math": math.judge,
    "math_untagged": math.judge_untagged,
    "math_eval": math_eval.judge,
    "math_gold": math_gold.judge,
    "choice": choice.judge,
    "text": text.judge,
}
"""The built-in verifiers, by id. The mathematical ones import sympy when they are first used, which takes a second."""


def resolve(name: str) -> Verifier:
    """The verifier called ``name``; imports the module of a ``module:function``. Raises ``ConfigError``."""
    if ":" not in name:
        if name not in VERIFIERS:
            known = ", ".join(sorted(VERIFIERS))
            raise ConfigError(f"unknown verifier {name!r}; known: {known}; or give 'module:function'")
        return VERIFIERS[name]
    module_name, _, attribute = name.partition(":")
    try:
        verifier = getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"verifier {name!r} cannot be imported: {error}; give 'module:function' with the module on PYTHONPATH"
        ) from error
    if not callable(verifier):
        raise ConfigError(f"verifier {name!r} is no function; it must be judge(response: str, gold: str) -> Judgement")
    return verifier


def judge_item(item: Item) -> Judgement:
    """The judgement of one item.

    A response that ran into the cap has delivered no answer, whatever its text holds: it is not searched, because a
    number that happens to stand last in it would be credited by luck.
    """
    if item.truncated:
        return Judgement(Verdict.TRUNCATED, reason="truncated")
    judgement = resolve(item.verifier)(item.response, item.gold)
    if not isinstance(judgement, Judgement):
        raise TypeError(f"verifier {item.verifier!r} returned {type(judgement).__name__}; it must return a Judgement")
    return judgement


def self_test(name: str) -> str | None:
    """What is wrong with the verifier ``name`` on the known pairs of its module; None if nothing is."""
    verifier = resolve(name)
    for response, gold, wanted in getattr(sys.modules[verifier.__module__], "KNOWN_PAIRS", ()):
        verdict = verifier(response, gold).verdict
        if verdict is not wanted:
            return f"verifier {name!r} says {verdict} of {response!r} with gold {gold!r}, which is known to be {wanted}"
    return None
