"""`gvm`: gradient variance minimization, which gives the prompts of a step different numbers of answers.

    p_i = share of right answers                       G_i = mean over right answers of ||grad(-log pi(y|x))||
    w_i = G_i / sqrt(p_i + alpha / p_i^(beta-1))       0 if G_i = 0 or p_i = 0
    w_i /= sum w;  w_i = 0 if p_i > filter_threshold;  w_i = 0 if p_i w_i N < filter_insufficient;  w_i /= sum w
    n_i = w_i N rounded, corrected to sum to N         all w_i = 0: equal n_i
    N   = min(samples, prompts * rollout.group_size)

n_i ~ G_i / sqrt(p_i) minimises sum_i G_i^2 / (p_i n_i), the variance of the gradient of right answers; for p -> 0 the
weight falls like p^((beta-1)/2), so that hopeless prompts do not take it all. A filter with value 0 is off, and so is
the first with value 1.

Where the estimates come from: ``pilot`` samples ``pilot`` answers to each prompt first, which cost tokens and are not
trained; ``history`` remembers past rollouts and costs nothing (a problem that it does not know counts as the mean of
those it does, and one that got nothing for a few epochs is tried again). ``norm`` is that of the gradient with respect
to the input embeddings, one more forward and backward pass over the right answers, or its proxy sqrt(length).

Differs from the release: the embedding's gradient leaves out a tied output head; ``least`` (2) drops prompts whose few
answers could not be compared (0 keeps them); counts are not padded to the number of GPUs, as groups need not be equal.

Source: arXiv 2505.02391, and its code, RLHFlow/GVM em/stage_2_calc_sample_size.py and
em/stage_2_calc_acceptRates_grads.py. ``history``, ``sqrt_length`` and ``least`` are not published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ...errors import ConfigError
from .allocation import allocate, raw_weights, shares
from .base import Filter, Norm, Outcome, Round, SamplerDefaults
from .solve_rates import SolveRates


@dataclass(frozen=True)
class Gvm:
    """n_i proportional to G_i / sqrt(p_i + alpha / p_i^(beta-1)), with sum N."""

    estimate: Literal["pilot", "history"] = "pilot"
    """Where p and G come from: answers sampled for it before each step, or past rollouts."""
    pilot: int = 8
    """Answers per prompt that ``pilot`` samples."""
    memory: float = 0.5
    """``history``: weight of what was known when a problem is seen again."""
    norm: Literal["embedding", "sqrt_length"] = "embedding"
    """G: norm of the gradient with respect to the input embeddings, or the square root of the length."""
    alpha: float = 1e-3
    """Discount of prompts that are hardly ever solved; 0 gives them most."""
    beta: float = 2.0
    """How fast that discount sets in as p falls, at least 1."""
    filter_threshold: float = 1.0
    """Prompts solved more often than this get no answers; 1 (and 0) is off."""
    filter_insufficient: float = 0.0
    """Prompts with fewer right answers to expect than this get none; 0 is off."""
    least: int = 2
    """Fewest answers that a prompt gets if it gets any; under `grpo` a single one has no advantage."""
    samples: int | None = None
    """Answers of a step in all, N; by default (and at most) prompts * rollout.group_size."""
    filter: Filter = "none"
    """``signal`` leaves out groups whose answers are all right or all wrong."""

    name: ClassVar[str] = "gvm"

    def __post_init__(self) -> None:
        for key, least in {"pilot": 1, "least": 0, "alpha": 0, "beta": 1, "filter_insufficient": 0}.items():
            if not getattr(self, key) >= least:
                raise ConfigError(f"sampler.{key} is {getattr(self, key):g} but must be at least {least}; raise it")
        for key in ("memory", "filter_threshold"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(f"sampler.{key} is {getattr(self, key):g} but must lie between 0 and 1")
        if self.samples is not None and self.samples < max(1, self.least):
            raise ConfigError(
                f"sampler.samples is {self.samples} but one prompt alone needs {max(1, self.least)} (sampler.least); "
                "raise it, or leave it out"
            )

    def check(self, settings: Any) -> None:
        """Raise ``ConfigError`` for what does not go together with groups of different sizes."""
        rollout = settings.rollout
        if rollout.park_after:
            raise ConfigError(
                f"sampler gvm gives each prompt its own number of answers, which a parked group does not keep, but "
                f"rollout.park_after is {rollout.park_after}; leave it out"
            )
        most = getattr(rollout.driver, "per_prompt", None)
        if self.norm == "embedding" and most is not None and most.rows != most.rollouts:
            raise ConfigError(
                "sampler.norm embedding needs rollouts of one row, but this rollout.driver gives up to "
                f"{most.rows} rows for {most.rollouts} rollouts; set sampler.norm=sqrt_length"
            )

    @property
    def looks_back(self) -> bool:
        """Whether it learns of a problem from earlier answers to it."""
        return self.estimate == "history"

    @property
    def pilot_samples(self) -> int:
        """Answers per prompt that are sampled besides those trained."""
        return self.pilot if self.estimate == "pilot" else 0

    def describe(self, batch: int, group_size: int) -> list[str]:
        """What a dry run should say."""
        total = min(self.samples or batch * group_size, batch * group_size)
        pilot = f"; {batch} x {self.pilot} more to estimate, not trained" if self.pilot_samples else ""
        return [f"sampler gvm: {total:,} rollouts per step, shared out among the prompts{pilot}"]

    def counts(self, norm_P: Any, rate_P: Any, total: int) -> list[int]:
        """Answers to each prompt; they sum to ``total``."""
        weight_P = raw_weights(norm_P, rate_P, self.alpha, self.beta)
        share_P = shares(weight_P, rate_P, total, self.filter_threshold, self.filter_insufficient)
        return allocate(share_P, total, self.least).tolist()

    def build(self, problems: int, seed: int) -> GvmSampler:
        """A sampler over ``problems`` problems, at its start."""
        return GvmSampler(self, problems, seed)


class GvmSampler(SamplerDefaults):
    """See ``Gvm``."""

    def __init__(self, settings: Gvm, problems: int, seed: int) -> None:
        super().__init__(problems, seed)
        self.settings = settings
        self._rates = SolveRates(settings.memory if settings.estimate == "history" else 0.0)
        self._piloted: list[int] = []
        """Prompts whose estimates are being sampled."""
        self._given: list[int] = []

    @property
    def norm(self) -> Norm:
        return self.settings.norm if self._piloted or self.settings.estimate == "history" else "none"

    def ask(self, batch: int, group_size: int, waiting: int = 0) -> Round:
        indices = self.draw(max(batch - waiting, 1))
        if self.settings.estimate == "history":
            return self._allocated(indices, group_size)
        self._piloted = indices
        return Round(indices, [self.settings.pilot] * len(indices), trained=False)

    def ask_again(self, batch: int, group_size: int, passed: int) -> Round | None:
        piloted, self._piloted = self._piloted, []
        return self._allocated(piloted, group_size) if piloted else None

    def sizes(self, indices: Sequence[int], group_size: int) -> list[int]:
        total = min(self.settings.samples or group_size * len(indices), group_size * len(indices))
        mean_rate, mean_norm = self._rates.means() or (1.0, 1.0)
        rates = [self._rates.rate(index) for index in indices]
        norms = [mean_norm if rate is None else self._rates.norm(i) for i, rate in zip(indices, rates, strict=True)]
        return self.settings.counts(norms, [mean_rate if rate is None else rate for rate in rates], total)

    def record_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        if self._piloted or self.settings.estimate == "history":
            for outcome in outcomes:
                self._rates.see(outcome)

    def metrics(self) -> dict[str, float]:
        given = np.array(self._given)
        return {"sampler/left_out": float((given == 0).mean()), "sampler/largest_group": float(given.max())}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "rates": self._rates.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._rates.load_state_dict(state["rates"])
        self._piloted = []

    def _allocated(self, indices: list[int], group_size: int) -> Round:
        self._given = self.sizes(indices, group_size)
        chosen = [(index, size) for index, size in zip(indices, self._given, strict=True) if size]
        for index, size in zip(indices, self._given, strict=True):
            if not size:
                self._rates.pass_over(index)
        return Round([index for index, _ in chosen], [size for _, size in chosen])
