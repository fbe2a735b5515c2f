"""Alarms of a training run: signs that it is being spoiled, each told once in the terminal and kept as a metric.

A rule compares the means of the last ``WINDOW`` generations with those of the first ``WINDOW``, or with a fixed limit.
``alarm/<name>`` is 1 in every generation in which it holds. Values that are not known (NaN) hold nothing.

    wrong_above_right   length outvotes the outcome in some group
    length_only_wrong   groups without a right answer learn from lengths: to give up early, or to ramble
    collapse            answers get shorter and wrong
    short_is_wrong      within groups it is the longer answers that are right, more and more
    truncated           answers run into the completion cap, more and more
    no_thought          thoughts disappear, or shrink below 32 tokens
    repetition          answers repeat themselves, more and more
    entropy             the policy is sure of every token
    no_signal           rewards are equal in nearly every group
    idle                a length term has moved no reward for ``IDLE`` generations
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)

WINDOW = 5
"""Generations whose metrics are averaged."""
IDLE = 20
"""Generations without any effect after which a length term is called idle."""
Means = Mapping[str, float]


@dataclass(frozen=True)
class Rule:
    """An alarm: when it rings, and what to do."""

    name: str
    keys: tuple[str, ...]
    """Metrics it looks at; where one of them is not known it does not ring."""
    rings: Callable[[Means, Means], bool]
    """From the means of the first and of the last generations."""
    advice: str


def _rises(key: str, by: float) -> Callable[[Means, Means], bool]:
    return lambda first, last: last[key] > first[key] + by


RULES = (
    Rule(
        "wrong_above_right", ("reward/wrong_above_right",), lambda first, last: last["reward/wrong_above_right"] > 0,
        "a wrong answer scores above a right one: use a method with gate correct_only, or lower its weight",
    ),
    Rule(
        "length_only_wrong", ("reward/length_only_wrong",), lambda first, last: last["reward/length_only_wrong"] > 0,
        "groups without a right answer get different rewards for their lengths: use a method with gate correct_only",
    ),
    Rule(
        "collapse", ("outcome/accuracy", "length/mean"),
        lambda first, last: last["outcome/accuracy"] < first["outcome/accuracy"] - 0.1
        and last["length/mean"] < 0.8 * first["length/mean"],
        "answers are getting shorter and wrong: stop, and lower the length weight or raise its target",
    ),
    Rule(
        "short_is_wrong", ("length/outcome_correlation",), _rises("length/outcome_correlation", 0.3),
        "within groups the short answers are more and more the wrong ones: lower the length weight",
    ),
    Rule(
        "truncated", ("length/truncated",), _rises("length/truncated", 0.25),
        "more and more answers run into rollout.max_completion: raise it, or look at rollouts/ for endless ones",
    ),
    Rule(
        "no_thought", ("thought/short",), _rises("thought/short", 0.5),
        "thoughts disappear: see in rollouts/ whether answers are still reasoned, and compare accuracies",
    ),
    Rule(
        "repetition", ("length/repeated",), _rises("length/repeated", 0.25),
        "answers repeat themselves more and more: look at rollouts/; a length target from below may ask for filler",
    ),
    Rule(
        "entropy", ("policy/entropy",), lambda first, last: last["policy/entropy"] < 0.1 * first["policy/entropy"],
        "the policy's entropy has fallen to a tenth: raise objective.epsilon_high or objective.entropy, or lower "
        "optim.lr",
    ),
    Rule(
        "no_signal", ("reward/flat_groups",), lambda first, last: last["reward/flat_groups"] > 0.95,
        "rewards are equal in nearly every group, so nothing is learned: choose easier or harder problems",
    ),
)  # fmt: skip


@dataclass
class Alarms:
    """The rules over a run; ``judge`` every generation in order."""

    terms: tuple[str, ...] = ()
    """Ids of the length methods, whose effect is watched."""
    first: list[dict[str, float]] = field(default_factory=list)
    last: list[dict[str, float]] = field(default_factory=list)
    idle: dict[str, int] = field(default_factory=dict)
    """Generations since a term moved a reward."""
    told: list[str] = field(default_factory=list)

    def judge(self, metrics: Mapping[str, Any], *, speak: bool = True) -> dict[str, float]:
        """The alarms of a generation with these metrics; ``speak``: warn of those that ring for the first time."""
        row = {key: float(metrics[key]) for rule in RULES for key in rule.keys if key in metrics}
        if len(self.first) < WINDOW:
            self.first.append(row)
        self.last = [*self.last, row][-WINDOW:]
        first, last = _means(self.first), _means(self.last)
        found = {f"alarm/{rule.name}": float(_rings(rule, first, last)) for rule in RULES}
        advice = {f"alarm/{rule.name}": rule.advice for rule in RULES}
        for term in self.terms:
            active = metrics.get(active_key(term), math.nan)
            self.idle[term] = 0 if active > 0 else self.idle.get(term, 0) + 1
        asleep = [term for term in self.terms if self.idle[term] >= IDLE]
        found["alarm/idle"] = float(bool(asleep))
        advice["alarm/idle"] = (
            f"reward.shaping {', '.join(asleep)} has moved no reward for {IDLE} generations: {why_idle(metrics)}"
        )
        for key, rings in found.items():
            if rings and key not in self.told:
                self.told.append(key)
                if speak:
                    log.warning("%s: %s", key, advice[key])
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, ready for JSON."""
        return {"first": self.first, "last": self.last, "idle": self.idle, "told": self.told}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        for key, value in state.items():
            setattr(self, key, value)


def active_key(term: str) -> str:
    """The metric of a length term's effect: the share of groups in which it tells answers of one outcome apart."""
    return f"reward/active_{term}"


def why_idle(metrics: Mapping[str, Any]) -> str:
    """The likely reason why lengths move no reward, from a generation's metrics."""
    accuracy, kept = metrics.get("outcome/accuracy", math.nan), metrics.get("groups/kept", math.nan)
    if kept == 0:
        return "no group passed the filter; see sampler.filter"
    if accuracy == 0:
        return "no answer was right, and length counts for right ones only"
    longest = metrics.get("length/max", math.nan)
    return (
        f"answers of the same outcome got equal rewards (the longest had {longest:g} tokens); its target, cap or dead "
        "zone may lie beyond their lengths, no group may have two right answers, or, for methods that compare modes, "
        "none was given without a thought"
    )


def _rings(rule: Rule, first: Means, last: Means) -> bool:
    known = all(math.isfinite(means.get(key, math.nan)) for means in (first, last) for key in rule.keys)
    return known and rule.rings(first, last)


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of the known values of each metric."""
    means = {}
    for key in {key for row in rows for key in row}:
        values = [row[key] for row in rows if math.isfinite(row.get(key, math.nan))]
        means[key] = math.fsum(values) / len(values) if values else math.nan
    return means
