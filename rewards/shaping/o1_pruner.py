"""`o1_pruner`: shorter than the start policy's mean length for the problem, and no less often right than it.

    w_i = (Lref / L_i - 1) + accuracy_weight * (c_i - Aref)        gate = none, as published
          (Lref / L_i - 1) c_i + accuracy_weight * (c_i - Aref)    gate = correct_only
    variant = paper    r = w
              code     w clipped to [-2, 4], then r = (w - mean) / std over the whole generation (ddof 0; 0 if std = 0)

Lref and Aref are mean length and accuracy of K pre-samples of the start policy for the problem. ``reference`` names a
file of them: evaluate the start policy on the training problems (`laconic eval`, K samples each; published K 16 or 12).
Without a file the pre-samples of a problem are its first group in this run, whose policy has had a few updates if the
problem comes late. Either way they are frozen in the run's state. L = 0 counts as 1.

Lref / L has no bound and the accuracy term is 0 for all of an all-wrong group: ungated, a short wrong answer beats a
right one (Lref 600, Aref 0.5, weight 2: wrong at 150 tokens scores 2, right at 600 scores 1). Hence the default gate;
with it a right response stays above a wrong one of its group for any accuracy_weight above 1.

Published training is offline: two pre-samples per problem, their weights w standardised over that data set, one epoch
of mean max(-w rho, -w clip(rho, 0.8, 1.2)) with rho the ratio of the sequence's likelihoods under policy and start
policy (paper), or exp of the difference of their mean log-probs (code; objective `gspo` with clip 0.2). Here w is the
reward of responses that the policy samples. Credit that subtracts the group's mean removes Aref, one number per group.

Source: O1-Pruner, arXiv 2501.12570, and its code, StarDewXXX/O1-Pruner o1_scripts/construct_dataset.py and
src/llamafactory/train/wsft/trainer.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ...errors import ConfigError
from .base import F64, Invariant, Need, Responses, RewardRange, Scope, ShapingDefaults
from .reference import look_up, measured_on, read_reference

# Shapes: N responses

_BOUNDS = (-2.0, 4.0)
"""Smallest and largest w, in the published code."""
_SAME = 1e-12
"""A standard deviation below this is rounding."""


@dataclass(frozen=True)
class O1Pruner(ShapingDefaults):
    """r = Lref / L - 1 + accuracy_weight * (c - Aref), against the start policy's pre-samples."""

    variant: Literal["code", "paper"] = "code"
    """``code`` clips w to [-2, 4] and standardises it over the generation, ``paper`` does neither."""
    accuracy_weight: float = 2.0
    """lambda in the paper, alpha in its code, above 1: 2 for Marco-o1-7B, 5 for QwQ-32B-Preview."""
    gate: Literal["correct_only", "none"] = "correct_only"
    """Whether length moves right responses only, or all, as published."""
    reference: str | None = None
    """Samples of the start policy by ``laconic eval``, a folder or file; None: each problem's first group."""

    name: ClassVar[str] = "o1_pruner"
    scope: ClassVar[Scope] = "history"
    needs: ClassVar[frozenset[Need]] = frozenset({"problem"})

    def __post_init__(self) -> None:
        if not self.accuracy_weight > 1:
            raise ConfigError(
                f"o1_pruner.accuracy_weight is {self.accuracy_weight} but must be above 1, so that a long right "
                "response stays above a wrong one; the paper's values are 2 and 5"
            )
        for key, names in {"variant": ("code", "paper"), "gate": ("correct_only", "none")}.items():
            if getattr(self, key) not in names:
                raise ConfigError(f"o1_pruner.{key} is {getattr(self, key)!r}; known: {', '.join(names)}")

    @property
    def exceptions(self) -> Mapping[Invariant, str]:
        if self.gate == "correct_only":
            return {}
        return {
            "dominance": "as published, a short wrong response scores above a right one of the reference's length",
            "all_wrong": "as published, wrong responses are rewarded for being short",
        }

    def range(self) -> RewardRange:
        """Bounds of w in the paper's variant; standardised values have none."""
        if self.variant == "code":
            return RewardRange(right=(-np.inf, np.inf), wrong=(-np.inf, np.inf))
        low, high = (-1.0, np.inf) if self.gate == "none" else (0.0, 0.0)
        return RewardRange(right=(-1.0, np.inf), wrong=(low - self.accuracy_weight, high))

    def first_state(self) -> dict[str, Any]:
        """``reference``: problem -> [Lref, Aref]."""
        return {"reference": {} if self.reference is None else read_reference(self.reference)}

    def next_state(self, responses: Responses) -> dict[str, Any]:
        """The reference, with what was sampled for problems that are new to it."""
        return {"reference": self._known(responses)}

    def __call__(self, responses: Responses) -> F64:
        """Rewards, float64 (N,)."""
        assert responses.problem_N is not None
        ref_length_N, ref_accuracy_N = look_up(self._known(responses), responses.problem_N)
        length_part_N = ref_length_N / np.maximum(responses.length_N, 1.0) - 1
        if self.gate == "correct_only":
            length_part_N = length_part_N * responses.right_N
        weight_N = length_part_N + self.accuracy_weight * (responses.right_N - ref_accuracy_N)
        return weight_N if self.variant == "paper" else standardised(np.clip(weight_N, *_BOUNDS))

    def _known(self, responses: Responses) -> dict[str, Any]:
        table = dict(responses.state["reference"])
        return table if self.reference is not None else measured_on(responses) | table


def standardised(weight_N: F64) -> F64:
    """Mean 0 and standard deviation 1 (ddof 0) over all of them; zeros where they are equal."""
    centred_N = weight_N - weight_N.mean()
    std = float(weight_N.std())
    return centred_N / std if std > _SAME else np.zeros_like(centred_N)
