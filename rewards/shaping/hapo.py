"""`hapo`: right answers shorter than the shortest right one that training has seen for their problem are rewarded.

With the problem's history h (``mode: min``, the shortest right length so far; ``mean``, the mean of all right lengths):

    cosine    v(L) = cos(pi/2 * L/h)  if L < 2h, else -1
    linear    v(L) = 1 - L/h          if L < h
                     0                if L < (1 + tolerance) h
                     -(L - (1 + tolerance) h) / h
    f = max(-0.7, v)      if right
        max(-1, min(0, v))  if wrong and gate = sign_split (published);  0 if gate = correct_only
    f = 0                 if the problem has no history, or h = 0
    r = c + weight * f

A right response keeps at least 1 - 0.7 weight. As published, a wrong one longer than h loses up to ``weight``, also in
an all-wrong group; by default wrong ones stay at 0.

All rewards of a generation are computed with the old history. Then it takes in the right lengths of the generation, of
all ranks, once; problems without a right response keep theirs. Only training writes it, evaluation does not. A run
continues with it, from its checkpoint. Lengths are trained tokens, the end-of-sequence token included; published code
encodes the text again and leaves special tokens out. Its n-gram penalty, off by default there, is `ngram_rep`.

Source: HAPO, arXiv 2505.11225, and its code, HCY123902/HAPO utils.py and grpo_trainer.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ...errors import ConfigError
from .base import F64, Invariant, Need, Responses, RewardRange, Scope, ShapingDefaults

# Shapes: N responses

_LEAST_RIGHT = -0.7
"""Smallest f of a right response, as published."""


@dataclass(frozen=True)
class Hapo(ShapingDefaults):
    """r = c + weight * f, where f compares the length with the shortest right one of the problem so far."""

    weight: float = 1.0
    """Share of the length term, above 0 and at most 1, so that a right response keeps at least 0.3."""
    curve: Literal["cosine", "linear"] = "cosine"
    """How the term falls with the length."""
    mode: Literal["min", "mean"] = "min"
    """What a problem's history is: its shortest right length, or the mean of all of them."""
    tolerance: float = 0.1
    """Share of h that a response may be longer without a loss, with ``curve: linear``."""
    gate: Literal["correct_only", "sign_split"] = "correct_only"
    """Whether length moves right responses only, or also punishes wrong ones longer than h, as published."""

    name: ClassVar[str] = "hapo"
    scope: ClassVar[Scope] = "history"
    needs: ClassVar[frozenset[Need]] = frozenset({"problem"})

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ConfigError(
                f"hapo.weight is {self.weight} but must be above 0 and at most 1, so that a right response scores "
                "above a wrong one; choose a smaller one, or shaping 'none' for no length reward"
            )
        if not self.tolerance >= 0:
            raise ConfigError(f"hapo.tolerance is {self.tolerance} but must be 0 or more; the paper's value is 0.1")
        known = {"curve": ("cosine", "linear"), "mode": ("min", "mean"), "gate": ("correct_only", "sign_split")}
        for key, names in known.items():
            if getattr(self, key) not in names:
                raise ConfigError(f"hapo.{key} is {getattr(self, key)!r}; known: {', '.join(names)}")

    @property
    def exceptions(self) -> Mapping[Invariant, str]:
        if self.gate == "correct_only":
            return {}
        return {"all_wrong": "the published rule takes up to the whole weight off wrong responses longer than h"}

    def range(self) -> RewardRange:
        wrong = -self.weight if self.gate == "sign_split" else 0.0
        return RewardRange(right=(1 + _LEAST_RIGHT * self.weight, 1 + self.weight), wrong=(wrong, 0.0))

    def first_state(self) -> dict[str, Any]:
        """``history``: problem -> [tokens, right responses], whose quotient is h."""
        return {"history": {}}

    def next_state(self, responses: Responses) -> dict[str, Any]:
        """The history with the right lengths of this generation."""
        assert responses.problem_N is not None
        history = dict(responses.state["history"])
        # Not their mean: sums of whole numbers are exact, so ranks and orders of responses agree to the last bit.
        for row in np.flatnonzero(responses.right_N):
            problem, length = responses.problem_N[row], float(responses.length_N[row])
            tokens, count = history.get(problem, (0.0, 0.0))
            if self.mode == "mean":
                history[problem] = [tokens + length, count + 1.0]
            else:
                history[problem] = [min(tokens, length) if count else length, 1.0]
        return {"history": history}

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (N,)."""
        assert responses.problem_N is not None
        history: Mapping[str, Sequence[float]] = responses.state["history"]
        pairs = [history.get(problem, (0.0, 1.0)) for problem in responses.problem_N]
        history_N = np.array([tokens / count for tokens, count in pairs])
        known_N = history_N > 0
        value_N = self._value(responses.length_N / np.where(known_N, history_N, 1.0))
        wrong_N = np.clip(value_N, -1.0, 0.0) if self.gate == "sign_split" else np.zeros_like(value_N)
        term_N = np.where(responses.right_N, np.maximum(_LEAST_RIGHT, value_N), wrong_N)
        return responses.right_N + self.weight * np.where(known_N, term_N, 0.0)

    def _value(self, ratio_N: F64) -> F64:
        """v for L/h."""
        if self.curve == "cosine":
            return np.cos(np.pi / 2 * np.minimum(ratio_N, 2.0))
        return np.where(ratio_N < 1, 1 - ratio_N, np.minimum(0.0, 1 + self.tolerance - ratio_N))
