"""What a shaping needs of the responses, or an error that says what is missing."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from ...errors import ConfigError, DataError
from .base import F64, Responses

# Shapes: N responses

T = TypeVar("T")


def needed(value: T | None, method: str, field: str) -> T:
    """``value``, which is the ``field`` of the responses; ``DataError`` where it was not filled in."""
    if value is None:
        raise DataError(f"{method} needs Responses.{field}, which is None; pass it to Responses.of({field}=...)")
    return value


def budgets(responses: Responses, otherwise: int | None, method: str) -> F64:
    """Tokens asked for, float64 (N,): by the prompt, else ``otherwise``, else NaN.

    Raises:
        DataError: there are neither, so that the method would train on outcomes alone.
    """
    if otherwise is None:
        return np.asarray(needed(responses.budget_N, method, "budget_N"), np.float64)
    if responses.budget_N is None:
        return np.full(len(responses), float(otherwise))
    return np.where(np.isnan(responses.budget_N), float(otherwise), responses.budget_N)


def check_budget(method: str, otherwise: int | None, rollout: Any, full: float) -> None:
    """Refuse a run (``rollout`` is its section of the settings) in which budgets change no reward.

    There is none, or no answer can be so long that it has less than ``full`` tokens of its budget left, up to which
    all right answers score alike.
    """
    given = [tokens for tokens in (otherwise, rollout.budget.smallest) if tokens is not None]
    if not given:
        raise ConfigError(
            f"reward.shaping {method} compares lengths with a budget, but there is none, so outcomes alone would be "
            "rewarded; set rollout.budget.low, high and instruction, or reward.shaping.budget for one that prompts "
            "do not mention"
        )
    if min(given) - full >= rollout.max_completion:
        raise ConfigError(
            f"reward.shaping {method} gives all right answers with at least {full:g} tokens of their budget left the "
            f"same reward, and with a budget of {min(given)} or more none that ends by rollout.max_completion = "
            f"{rollout.max_completion} has less; lower the budget"
        )


def check_reached(method: str, setting: str, tokens: float, rollout: Any) -> None:
    """Refuse a run in which no answer can be longer than ``tokens``."""
    if tokens >= rollout.max_completion:
        raise ConfigError(
            f"reward.shaping.{setting} of {method} is {tokens}, but no answer is longer than rollout.max_completion = "
            f"{rollout.max_completion}, so length would change no reward; lower {setting}, or raise "
            "rollout.max_completion"
        )
