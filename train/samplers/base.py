"""What a prompt sampler is: it says which problems come next, and how many a step asks for.

A step asks ``to_sample(batch)`` how many prompts it needs, draws them, rolls them out, drops the groups that its
``filter`` names, trains on the first ``batch`` of the rest and reports with ``record`` how many passed. Where fewer
passed, the step trains on those: our normalizers count rows, not a padded batch, so nothing needs to be repeated to
fill it. Where none passed, there is nothing to train on and the update is skipped.

All samplers go through the problems in the same order, which depends on the seed alone: one random permutation per
epoch, without a gap where a draw crosses from one epoch into the next.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np

from ...errors import DataError

Filter = Literal["none", "signal"]
"""Which groups are trained: all, or those with right and wrong answers (after truncation)."""


class Sampler(Protocol):
    """The running state behind a sampler's settings."""

    def draw(self, count: int) -> list[int]:
        """Indices of the next ``count`` problems."""

    def to_sample(self, batch: int) -> int:
        """How many prompts to sample so that about ``batch`` groups pass the filter."""

    def record(self, passed: int, sampled: int) -> None:
        """Tell how many of the sampled groups passed the filter."""

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, ready for JSON."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""


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
