"""Token budgets that prompts ask for: how many, in which words.

    n = low + hash(seed, step, problem) mod (high - low + 1)        or one of the named levels, by the same hash

A draw depends on nothing else, so it is the same on every rank, after a resume, and for a group that was parked. By
default a problem keeps its budget for the whole run, as in the published data sets (step = 0). Rewards that look at
budgets (`lcpo_exact`, `lcpo_max`, `tldr`) find them in ``Responses.budget_N``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..errors import ConfigError
from ..eval.tasks.prompt import FIELD

TOKENS, LEVEL = "{budget}", "{level}"
"""What an instruction holds where the number of tokens, or the name of the level, goes."""


@dataclass(frozen=True)
class BudgetSettings:
    """Budgets between ``low`` and ``high`` tokens, or one of some named ``levels``."""

    low: int | None = None
    """Smallest budget in tokens; null: prompts have none."""
    high: int | None = None
    """Largest budget in tokens."""
    levels: Mapping[str, int] = field(default_factory=dict)
    """Instead of numbers: name of a level, such as ``short``, and its tokens."""
    instruction: str | None = None
    """Text after each prompt with ``{budget}`` or ``{level}`` in it; with ``{prompt}`` in it, text around it."""
    share: float = 1.0
    """Share of the problems whose prompts ask for a budget; the others stay as they are."""
    redraw: Literal["never", "step"] = "never"
    """Whether a problem keeps its budget, or gets a new one in every generation."""

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ConfigError("budget.low and budget.high go together, but only one of them is given; give both")
        if self.levels and self.low is not None:
            raise ConfigError("budget.levels and budget.low are two ways to choose a budget; leave one of them out")
        smallest = {} if self.low is None else {"low": self.low}
        for name, tokens in {**smallest, **self.levels}.items():
            if tokens < 1:
                raise ConfigError(f"budget {name} is {tokens} but must be at least 1 token; raise it")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ConfigError(f"budget.low is {self.low}, above budget.high = {self.high}; exchange the two")
        if not 0 < self.share <= 1:
            raise ConfigError(f"budget.share is {self.share} but must be above 0 and at most 1 (all problems)")
        self._check_wording()
        if self.redraw == "step" and not self.varied:
            raise ConfigError("budget.redraw is step, but there is one budget to draw; set redraw=never")

    def _check_wording(self) -> None:
        if self.instruction is None:
            if self.varied:
                raise ConfigError(
                    "budgets vary, but budget.instruction is null, so that no prompt would say which; set it to a text "
                    f"such as ' Think for maximum {TOKENS} tokens.', or set low and high to the same number"
                )
            return
        if not self.given:
            raise ConfigError("budget.instruction is set but there is no budget to name; set budget.low and high")
        if TOKENS not in self.instruction and LEVEL not in self.instruction:
            raise ConfigError(f"budget.instruction {self.instruction!r} names no budget; put {TOKENS} where it goes")
        if LEVEL in self.instruction and not self.levels:
            raise ConfigError(f"budget.instruction has {LEVEL}, but budget.levels is empty; name some, or use {TOKENS}")

    @property
    def given(self) -> bool:
        """Whether prompts have budgets."""
        return bool(self.levels) or self.low is not None

    @property
    def smallest(self) -> int | None:
        """The least of them in tokens; None without any."""
        return min(self.levels.values()) if self.levels else self.low

    @property
    def varied(self) -> bool:
        """Whether they differ."""
        return len(self.levels) > 1 or self.low != self.high or self.share < 1

    def of(self, seed: int, problem_id: str, step: int) -> float:
        """Tokens that the prompt of a group begun in generation ``step`` asks for; NaN without budgets."""
        asked = self._draw(seed, problem_id, step)
        return math.nan if asked is None else float(asked[1])

    def template(self, around: str | None, seed: int, problem_id: str, step: int) -> str | None:
        """The prompt template ``around`` with the instruction in it, as ``encode_prompt`` takes it."""
        asked = self._draw(seed, problem_id, step)
        return around if asked is None or self.instruction is None else self._worded(around, asked)

    def longest_templates(self, around: str | None) -> list[str | None]:
        """Templates with the longest instructions, to see beforehand whether prompts fit."""
        if self.instruction is None:
            return [around]
        asked = self.levels.items() if self.levels else [("", self.high or 0)]
        return [self._worded(around, one) for one in asked]

    def _draw(self, seed: int, problem_id: str, step: int) -> tuple[str, int] | None:
        """The level's name, empty without levels, and its tokens; None for a prompt that asks for nothing."""
        when = f"{seed}/{step if self.redraw == 'step' else 0}/{problem_id}"
        if not self.given or (self.share < 1 and _hash(f"{when}/asks") >= self.share * 2**64):
            return None
        if self.levels:
            return list(self.levels.items())[_hash(when) % len(self.levels)]
        assert self.low is not None and self.high is not None
        return "", self.low + _hash(when) % (self.high - self.low + 1)

    def _worded(self, around: str | None, asked: tuple[str, int]) -> str:
        assert self.instruction is not None
        # Not str.format: LaTeX is full of braces.
        words = self.instruction.replace(LEVEL, asked[0]).replace(TOKENS, str(asked[1]))
        prompt = FIELD if around is None else around
        return words.replace(FIELD, prompt) if FIELD in words else prompt + words


def _hash(text: str) -> int:
    """A number below 2^64 that is the same everywhere."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
