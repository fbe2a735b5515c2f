"""The methods that exist, as ``laconic methods`` lists them.

Formula and source stand in the method's own file and are printed from there; defaults are read from its dataclass.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass
from importlib import import_module
from typing import Any

from ..errors import ConfigError
from .settings_io import field_docs, own_fields, resolve

# Shapes of the story: method -> stage -> table -> dataclass

STAGES = {
    "rollout.driver": ("laconic.rollout.drivers", "DRIVERS"),
    "sampler": ("laconic.train.samplers", "SAMPLERS"),
    "truncation": ("laconic.train.truncation", "TRUNCATIONS"),
    "reward.shaping": ("laconic.rewards.shaping", "SHAPINGS"),
    "credit": ("laconic.train.credit", "CREDITS"),
    "objective": ("laconic.train.objectives", "OBJECTIVES"),
}
"""Section of the settings -> module and name of its table. Imported when a method is shown, not when it is listed."""


@dataclass(frozen=True)
class Method:
    """One published method."""

    id: str
    """Its name in configurations."""
    title: str
    paper: str
    """arXiv id."""
    stage: str
    """A key of ``STAGES``: the section that chooses it."""
    config: str
    line: str
    """What it does, in one line."""
    traps: tuple[str, ...]
    """What goes wrong when it is used without thought."""
    status: str = "tested"
    """``tested``: worked numbers of the paper or its code are asserted."""


METHODS = (
    Method(
        "grpo",
        "Group Relative Policy Optimization",
        "2402.03300",
        "credit",
        "configs/methods/grpo.yaml",
        "advantage = z-score of the reward within the prompt's group",
        (
            "Dividing by the group's standard deviation cancels the weight of a length reward where all are right.",
            "A group of equal rewards gives no gradient; with group_size 1 there is none at all.",
            "objective.normalizer row_mean punishes long wrong answers less per token than short ones.",
        ),
    ),
    Method(
        "dr_grpo",
        "GRPO done right",
        "2503.20783",
        "credit",
        "configs/methods/dr_grpo.yaml",
        "advantage = reward minus the group's mean, no division",
        ("Complete only together with objective.normalizer=constant: the row mean brings the length bias back.",),
    ),
    Method(
        "rloo",
        "REINFORCE leave-one-out",
        "2402.14740",
        "credit",
        "configs/methods/rloo.yaml",
        "advantage = reward minus the mean reward of the others in the group",
        (
            "Equals dr_grpo times G / (G - 1): comparing the two needs the same effective learning rate.",
            "The paper's sequence-level ratio and KL inside the reward are not part of this entry, only its baseline.",
        ),
    ),
    Method(
        "dot",
        "Dynamic Outlier Truncation",
        "2601.03969",
        "truncation",
        "configs/methods/dot.yaml",
        "in groups that are all right, cut answers longer than mean + alpha * std and judge them again",
        (
            "One outlier in G equal answers has z = (G - 1) / sqrt(G): with alpha 3 nothing is ever cut for G <= 10.",
            "Must come before a filter on outcomes: the groups it works on are those a filter drops.",
            "Excludes mask_truncated_completions, which takes the cut answers out of the loss.",
            "Learns from how outcomes change: as the policy gets brief, alpha and margin decide where it stops.",
        ),
    ),
    Method(
        "kl_cov",
        "KL-Cov regularisation",
        "2505.22617",
        "objective",
        "configs/methods/kl_cov.yaml",
        "penalise drift from the sampling policy on the few tokens with the highest covariance",
        (
            "No effect with one update per generation: the penalty is zero until the first update.",
            "There is no ratio clipping in this loss; keep learning rate and updates_per_batch small.",
        ),
    ),
    Method(
        "pds",
        "Predictive Dynamic Sampling",
        "2601.03969",
        "sampler",
        "configs/methods/pds.yaml",
        "ask for as many prompts as recent pass rates predict are needed to fill the batch, in one round",
        (
            "Needs sampler.filter=signal: without a filter every group passes.",
            "Up to max_factor times the rollouts of a step; the dry run counts them.",
        ),
    ),
    Method(
        "kimi_length",
        "Length reward of Kimi k1.5",
        "2501.12599",
        "reward.shaping",
        "configs/methods/kimi_length.yaml",
        "reward falls linearly from the shortest to the longest answer of the group",
        (
            "The published gate (sign_split) gives all-wrong groups a length gradient: giving up early pays.",
            "One answer at the completion cap sets the scale for all; max_quantile below 1 mends it.",
            "With credit grpo the weight cancels in groups of right answers; dr_grpo keeps it.",
        ),
    ),
    Method(
        "treepo",
        "Segment trees (TreePO)",
        "2508.17445",
        "rollout.driver",
        "configs/methods/treepo.yaml",
        "decode in segments, branch live paths at their ends, share what comes before",
        (
            "Deep trees with few leaves save little: the branching is used up in the first log2(group_size) segments.",
            "finished_first_strict takes the worst endings first, as published.",
            "Repetition looks at text across segments; a model that checks its work in equal words needs it off.",
        ),
    ),
    Method(
        "eptree",
        "Entropy-guided trees (TreeRL)",
        "2506.11902",
        "rollout.driver",
        "configs/methods/eptree.yaml",
        "split whole answers at their most surprising tokens and decode them to the end again",
        (
            "rollout.group_size counts whole answers; leaves are group_size * (1 + splits * rounds * branches).",
            "Where answers split depends on what was sampled, so a plain mean over leaves is biased.",
        ),
    ),
    Method(
        "delethink",
        "Markovian thinking in chunks",
        "2510.06557",
        "rollout.driver",
        "configs/methods/delethink.yaml",
        "think in chunks of a fixed size that see only the end of what was thought before: cost linear in thought",
        (
            "A model that does not repeat what matters near a chunk's end loses it; look at accuracy before training.",
            "All chunks of a trace share one advantage and its length, never a chunk's own.",
        ),
    ),
    Method(
        "summary",
        "InftyThink: rounds joined by summaries",
        "2503.06692",
        "rollout.driver",
        "configs/methods/summary.yaml",
        "a round ends with a summary, and the next one sees the problem and that summary only",
        (
            "The model must write the summary marks; one that never does samples flat answers of one round.",
            "The copied summary is context; it is trained where it was sampled.",
        ),
    ),
    Method(
        "anytime",
        "Anytime reasoning over sampled budgets",
        "2505.13438",
        "rollout.driver",
        "configs/methods/anytime.yaml",
        "cut each thought at several budgets and answer from every prefix",
        (
            "A base that has never seen a cut thought answers badly from one: its first steps only learn the format.",
            "unit trace judges the largest budget alone; unit summary gives every answer an advantage of its own.",
        ),
    ),
    Method(
        "fork_join",
        "Parallel threads with joins",
        "2512.07843",
        "rollout.driver",
        "configs/methods/fork_join.yaml",
        "decode independent parts side by side and go on from a copy of all of them",
        (
            "A join reads the threads in again: cheap in decode steps, not in prefill.",
            "Without fork marks in its training data a model never forks, and this is flat sampling.",
        ),
    ),
    Method(
        "budget_force",
        "Budget forcing of s1",
        "2501.19393",
        "rollout.driver",
        "configs/methods/budget_force.yaml",
        "cap the thought, and put a word such as Wait in place of its first ends",
        (
            "Made for evaluation: forced tokens are not trained, so a policy does not learn to go on by itself.",
            "The word must be one after which the model goes on thinking.",
        ),
    ),
)


def find(method: str) -> Method:
    """The method with an id; ``ConfigError`` names the known ones."""
    table = {entry.id: entry for entry in METHODS}
    if method not in table:
        close = difflib.get_close_matches(method, table, n=1)
        hint = f"did you mean {close[0]!r}?; " if close else ""
        raise ConfigError(f"unknown method {method!r}; {hint}known: {', '.join(table)}")
    return table[method]


def method_class(method: Method) -> type:
    """The dataclass behind a method."""
    module, name = STAGES[method.stage]
    table: Mapping[str, type] = getattr(import_module(module), name)
    return resolve(method.id, table, method.stage)


def as_dict(method: Method) -> dict[str, Any]:
    """Everything about a method, ready for JSON."""
    cls = method_class(method)
    docs = field_docs(cls)
    return {
        **{key: value for key, value in vars(method).items() if key != "traps"},
        "defaults": {f.name: {"value": _default(f), "meaning": docs.get(f.name, "")} for f in own_fields(cls)},
        "traps": list(method.traps),
        "description": description(cls),
    }


def description(cls: type) -> str:
    """The docstring of the method's file: what it does, formula, source."""
    return (sys.modules[cls.__module__].__doc__ or "").strip()


def print_table() -> None:
    """The list for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("id", "stage", "arXiv", "status"):
        table.add_column(heading, no_wrap=True)
    table.add_column("what it does")
    for method in METHODS:
        table.add_row(method.id, method.stage, method.paper, method.status, method.line)
    console = Console(highlight=False)
    console.print(table)
    console.print("\nconfigurations: configs/methods/<id>.yaml\nmore about one: laconic methods show dot", markup=False)


def print_method(method: Method) -> None:
    """One method for people."""
    from rich.console import Console

    facts = as_dict(method)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{method.id}[/bold]: {method.title} (arXiv {method.paper}), {method.status}")
    console.print(f"\n{facts['description']}\n", markup=False)
    console.print(f"settings, in section {method.stage} (name: {method.id})", style="bold")
    for name, option in facts["defaults"].items():
        console.print(f"  {name}: {_in_yaml(option['value'])}", markup=False)
        console.print(f"      {option['meaning']}", markup=False, style="dim")
    if not facts["defaults"]:
        console.print("  (no options)")
    console.print("\ntraps", style="bold")
    for trap in method.traps:
        console.print(f"  - {trap}", markup=False)
    console.print(f"\ntry it: laconic train {method.config} --dry-run", markup=False)


def _in_yaml(value: Any) -> str:
    """A default as a configuration would have it; a plain word needs no quotes."""
    if isinstance(value, str) and value and "\n" not in value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else "(required)"
