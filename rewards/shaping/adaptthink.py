"""`adaptthink`: a bonus for right answers without a thought, so that thinking is kept for where it pays.

    n_i = 1                              if no token stands before the end-of-thought mark, else 0
    r_i = c_i - Aref + delta * n_i       gate = none, as published
          c_i - Aref + delta * n_i c_i   gate = correct_only

Aref is the accuracy of the start policy's thinking answers to the problem, from a file of pre-samples (``reference``);
without a file it is 0. It is the same for all responses of a group, so it matters only to credit that does not compare
them (published: advantage = reward); credit that subtracts the group's mean removes it and has a baseline of its own.
As published, an all-wrong group prefers its answers without a thought; by default only right ones get the bonus.

Of the method this file is the reward. Published training also forces half of each group to begin with the mark and half
with an ordinary token, sets the behaviour probability of that token to 0.5, and clips one ratio per sequence,
exp(mean of new - mean of old log-probs). Here responses are what the policy samples, which is the same objective in
expectation, but a policy that never answers at once gets no bonus and learns nothing about modes: warm it up first.
Published code takes a response's mode from what was forced, and one with two marks for wrong; here the tokens decide.

Source: AdaptThink, arXiv 2505.13417, and its code, THU-KEG/AdaptThink src/adapt_think_reward_manager.py and
src/adapt_think_core_algos.py (delta 0.05, 16 pre-samples and 16 responses per problem).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ...errors import ConfigError
from .base import F64, Invariant, Need, Responses, RewardRange, Scope, ShapingDefaults
from .modes import MODES_NOT_LENGTHS, at_once
from .reference import look_up, read_reference

# Shapes: N responses


@dataclass(frozen=True)
class AdaptThink(ShapingDefaults):
    """r = c - Aref, plus delta for answering at once."""

    delta: float = 0.05
    """Bonus for doing without a thought: as much accuracy may be lost for it. Above 0 and below 1."""
    gate: Literal["correct_only", "none"] = "correct_only"
    """Whether right responses only get the bonus, or wrong ones as well, as published."""
    reference: str | None = None
    """Samples of the start policy by ``laconic eval``, a folder or file, for Aref; none: Aref = 0."""

    name: ClassVar[str] = "adaptthink"
    needs: ClassVar[frozenset[Need]] = frozenset({"thought", "problem"})

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise ConfigError(
                f"adaptthink.delta is {self.delta} but must be above 0 and below 1, so that a wrong answer without a "
                "thought stays below a right one with it; the paper's value is 0.05"
            )
        if self.gate not in ("correct_only", "none"):
            raise ConfigError(f"adaptthink.gate is {self.gate!r}; known: correct_only, none (as published)")

    @property
    def scope(self) -> Scope:
        return "response" if self.reference is None else "history"

    @property
    def exceptions(self) -> Mapping[Invariant, str]:
        broken: dict[Invariant, str] = {"monotone": MODES_NOT_LENGTHS}
        if self.gate == "none":
            broken["all_wrong"] = "as published, wrong answers without a thought get the bonus too"
        return broken

    def range(self) -> RewardRange:
        most = 0.0 if self.reference is None else 1.0
        return RewardRange((1 - most, 1 + self.delta), (-most, self.delta if self.gate == "none" else 0.0))

    def first_state(self) -> dict[str, Any]:
        """The reference, read once; a run goes on with what it has read."""
        return {} if self.reference is None else {"reference": read_reference(self.reference)}

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (N,)."""
        right_N, at_once_N = responses.right_N, at_once(responses)
        reward_N = right_N + self.delta * (at_once_N if self.gate == "none" else at_once_N & right_N)
        if self.reference is not None:
            assert responses.problem_N is not None
            reward_N = reward_N - look_up(responses.state["reference"], responses.problem_N)[1]
        return reward_N
