"""What a prompt sampler is: it says which problems come next, and how many a step asks for.

A step samples in rounds, usually in one. The first, ``ask``, is of ``to_sample(batch)`` prompts, each with as many
answers as ``sizes`` says. When a round has been judged, the sampler hears what became of each problem
(``record_outcomes``) and may ``ask_again``. Groups that the ``filter`` drops do not count; the step trains on the first
``batch`` of the rest and tells with ``record`` how many passed. Where fewer passed, it trains on those: our normalizers
count rows, not a padded batch, so nothing needs to be repeated to fill it. Where none passed, there is nothing to train
on and the update is skipped.

All samplers go through the problems in the same order, which depends on the seed alone: one random permutation per
epoch, without a gap where a draw crosses from one epoch into the next. With several ranks each runs its own sampler;
all of them hear the same, so that they stay equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from ...errors import DataError

Filter = Literal["none", "signal"]
"""Which groups are trained: all, or those with right and wrong answers (after truncation)."""
Norm = Literal["none", "sqrt_length", "embedding"]
"""What a sampler wants to hear about the gradient of each right answer; see ``gradient_norms.py``."""


@dataclass(frozen=True, slots=True)
class Round:
    """Prompts to sample now."""

    indices: list[int]
    sizes: list[int]
    """Answers to each."""
    trained: bool = True
    """Whether the answers may be trained on, rather than only looked at."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one problem in one round, before truncation."""

    problem: int
    sampled: int
    right: int
    norm: float = 0.0
    """Sum over the right answers of what ``Sampler.norm`` names."""


class Sampler(Protocol):
    """The running state behind a sampler's settings; ``SamplerDefaults`` has what most share."""

    @property
    def norm(self) -> Norm:
        """What ``record_outcomes`` is to be told of gradients after the round that was asked for last."""

    def begin(self, generation: int) -> None:
        """A generation begins, counted from 0."""

    def ask(self, batch: int, group_size: int, waiting: int = 0) -> Round:
        """The first round of a step that trains on ``batch`` groups; ``waiting`` ones are there already."""

    def ask_again(self, batch: int, group_size: int, passed: int) -> Round | None:
        """One more round, now that so many groups have passed the filter, or None."""

    def draw(self, count: int) -> list[int]:
        """Indices of the next ``count`` problems."""

    def to_sample(self, batch: int) -> int:
        """How many prompts to sample in a round so that about ``batch`` groups pass the filter."""

    def sizes(self, indices: Sequence[int], group_size: int) -> list[int]:
        """How many answers to sample for each of these problems."""

    def longest(self, max_completion: int) -> int:
        """Longest answer in tokens in this generation, ``rollout.max_completion`` or less."""

    def record_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Tell what became of the problems of a round, in the order of their group ids."""

    def record(self, passed: int, sampled: int) -> None:
        """Tell how many of the groups sampled for training passed the filter."""

    def metrics(self) -> dict[str, float]:
        """What the log of the generation should say; the same keys every time."""

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, ready for JSON."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""


class SamplerDefaults:
    """Base class: every problem once per epoch, one round, equal groups, nothing remembered."""

    def __init__(self, problems: int, seed: int) -> None:
        self._order = EpochOrder(problems, seed)

    @property
    def norm(self) -> Norm:
        return "none"

    def begin(self, generation: int) -> None:
        """Every generation is alike here."""

    def ask(self, batch: int, group_size: int, waiting: int = 0) -> Round:
        # At least one: a generation without any new outcome could not be judged.
        indices = self.draw(max(self.to_sample(batch) - waiting, 1))
        return Round(indices, self.sizes(indices, group_size))

    def ask_again(self, batch: int, group_size: int, passed: int) -> Round | None:
        return None

    def draw(self, count: int) -> list[int]:
        return self._order.draw(count)

    def to_sample(self, batch: int) -> int:
        return batch

    def sizes(self, indices: Sequence[int], group_size: int) -> list[int]:
        return [group_size] * len(indices)

    def longest(self, max_completion: int) -> int:
        return max_completion

    def record_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Nothing follows from it here."""

    def record(self, passed: int, sampled: int) -> None:
        """Nothing follows from it here."""

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return self._order.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._order.load_state_dict(state)


class EpochOrder:
    """The order of the problems: position ``k`` belongs to epoch ``k // problems``."""

    def __init__(self, problems: int, seed: int) -> None:
        if problems < 1:
            raise DataError(f"the task has {problems} problems but training needs at least one; check task")
        self.problems, self.seed, self.position = problems, seed, 0
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def draw(self, count: int) -> list[int]:
        """Indices of the next ``count`` problems."""
        indices = [self._at(self.position + step) for step in range(count)]
        self.position += count
        return indices

    def state_dict(self) -> dict[str, Any]:
        return {"problems": self.problems, "seed": self.seed, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved position; ``DataError`` if it is one in another order."""
        for key, value in (("problems", self.problems), ("seed", self.seed)):
            if state[key] != value:
                raise DataError(
                    f"the saved order of prompts is for {key} = {state[key]} but this run has {value}; resume with "
                    "the same task and seed, or start a new run"
                )
        self.position = int(state["position"])

    def _at(self, position: int) -> int:
        epoch, offset = divmod(position, self.problems)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.problems)
        return int(self._order[offset])
