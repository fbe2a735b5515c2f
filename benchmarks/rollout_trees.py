"""Segment trees against flat sampling, and the scheduler's share of the time.

    tree.decoded_ratio           tokens that trees decode over those that flat sampling does
    tree.leaves_per_s_vs_flat    finished answers per second of trees over those of flat sampling
    scheduler.overhead           share of a rollout's time that is spent outside the engine, in scheduler and driver

The tiny thinker, 128 test problems, 16 answers to each, temperature 1, one completion cap and at most 256 live
sequences on both sides. Trees have widths 2, 4, 8, 16 at segments of a quarter of the cap.

Trees must give what flat sampling gives: as many finished answers to each problem, and the same mean reward. Answers
of a tree weigh as the driver says (an answer that is made by cutting another back weighs nothing); the 95 % interval of
the paired difference over problems must hold 0. On an engine that counts its prefill, T_pre equals the tokens of the
prompts that differ.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from laconic.benchmarks.claim import EMBEDDED_ENGINE, Claim, interleaved, median_and_spread
from laconic.eval.student_t import t_quantile
from laconic.eval.tasks import PROCEDURAL, Problem
from laconic.rewards.pool import VerifierPool
from laconic.rollout.driver import RolloutDriver
from laconic.rollout.drivers import FlatDriver, TreePODriver
from laconic.rollout.engines.protocol import Completion, Engine, KeepsPrefixes, Request
from laconic.rollout.engines.transformers import TransformersEngine
from laconic.rollout.records import Group, Rollout, prompt_group
from laconic.rollout.scheduler import run_groups
from laconic.train.experience import judge
from laconic.train.load_model import load_tokenizer
from laconic.train.model_files import resolve_model

# Shapes: P problems

_DRIVERS = ("flat", "treepo", "tree_fallback", "tree_paths", "tree_settings", "tree_width")
SOURCES = [
    *EMBEDDED_ENGINE,
    *(f"rollout/drivers/{name}.py" for name in _DRIVERS),
    *(f"rollout/{name}.py" for name in ("scheduler", "driver", "records", "noise")),
    "benchmarks/rollout_trees.py",
]

MODEL = "tiny-thinker"
PROBLEMS, ANSWERS, LIVE, PAIRS = 128, 16, 256, 5
CAP, SEGMENT = 192, 48
"""Four levels; half of the model's answers have more than 93 tokens, a quarter more than 183."""


def claims(quick: bool, device: str = "cpu") -> tuple[list[Claim], dict[str, Any]]:
    """The three claims and what explains them; ``quick`` takes too few problems to mean anything."""
    bench = Bench.load(PROBLEMS // 16 if quick else PROBLEMS)
    engine = embedded_engine(bench.tokenizer, device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # faster than two for a model of this size
    try:
        figures = against_flat(bench, engine, 1 if quick else PAIRS, counts_prefill=True)
    finally:
        torch.set_num_threads(threads)
    flat = f"flat sampling of as many answers on the same engine, {LIVE} live sequences"
    overheads = figures["overhead"]["tree"]
    return [
        claim_of("tree.decoded_ratio", "ceiling", figures["decoded_ratio"], flat),
        claim_of("tree.leaves_per_s_vs_flat", "floor", figures["speedup"], flat),
        claim_of("scheduler.overhead", "ceiling", overheads, None),
    ], figures


def claim_of(name: str, kind: Any, samples: Sequence[float], peer: str | None) -> Claim:
    """The median of some samples as a claim on results that were found equal."""
    value, spread = median_and_spread(samples)
    return {
        "id": name,
        "kind": kind,
        "value": value,
        "spread": spread,
        "peer": peer,
        "equal": None if peer is None else True,
        "sources": SOURCES,
        "samples": list(samples),
    }


def embedded_engine(tokenizer: Any, device: str = "cpu") -> TransformersEngine:
    """The tiny thinker on the embedded engine."""
    model = AutoModelForCausalLM.from_pretrained(resolve_model(MODEL), dtype=torch.float32).eval().to(device)
    return TransformersEngine(model, [tokenizer.eos_token_id], max_live=LIVE, allowed_vocab=len(tokenizer))


@dataclass
class Timed:
    """An engine that notes the seconds spent in it."""

    inner: Engine
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.policy_version = self.inner.policy_version

    @property
    def busy(self) -> bool:
        return self.inner.busy

    def submit(self, requests: Sequence[Request]) -> None:
        self._timed(self.inner.submit, requests)

    def step(self) -> list[Completion]:
        done: list[Completion] = self._timed(self.inner.step)
        return done

    def abort(self, requests: Sequence[int]) -> list[Completion]:
        done: list[Completion] = self._timed(self.inner.abort, requests)
        return done

    def sync(self, weights: Mapping[str, Tensor] | None, version: int) -> None:
        self.inner.sync(weights, version)

    def release(self, trees: Sequence[int]) -> None:
        if isinstance(self.inner, KeepsPrefixes):
            self._timed(self.inner.release, trees)

    def _timed(self, call: Any, *given: Any) -> Any:
        start = time.perf_counter()
        answer = call(*given)
        self.seconds += time.perf_counter() - start
        return answer


@dataclass
class Run:
    """One rollout of all problems."""

    groups: list[Group]
    seconds: float
    overhead: float
    """Share of the seconds outside the engine."""

    @property
    def leaves_per_s(self) -> float:
        return sum(len(group.leaves) for group in self.groups) / self.seconds

    @property
    def decoded(self) -> int:
        return sum(group.cost.decoded for group in self.groups)

    @property
    def prefilled(self) -> int:
        return sum(group.cost.prefilled for group in self.groups)


@dataclass
class Bench:
    """Problems, and the two drivers that answer them."""

    tokenizer: Any
    problems: list[Problem]
    drivers: dict[str, RolloutDriver]
    runs: dict[str, list[Run]] = field(default_factory=lambda: {"tree": [], "flat": []})

    @classmethod
    def load(cls, problems: int, cap: int = CAP, segment: int = SEGMENT, **tree: Any) -> Bench:
        """As many problems of each procedural task; ``tree``: other settings of the segment tree."""
        tokenizer = load_tokenizer(resolve_model(MODEL))
        share = problems // len(PROCEDURAL)
        common: dict[str, Any] = {"group_size": ANSWERS, "max_completion": cap}
        # the model's repeated checks look like loops, so a repetition ends nothing
        settings = {"width": 2, "segment_tokens": segment, "depth": cap // segment, "answer": "eos"}
        trees = TreePODriver(**{**settings, "repetition": "off", **common, **tree})
        return cls(
            tokenizer,
            [problem for task in PROCEDURAL.values() for problem in task.problems("test", 0, share)],
            {"tree": trees.with_tokenizer(tokenizer), "flat": FlatDriver(**common)},
        )

    def leaves_per_s(self, side: str, engine: Engine, step: int | None = None) -> float:
        """Finished answers per second of one side. Every run has a step of its own and so draws other answers."""
        groups = [
            prompt_group(index, problem.id, self.tokenizer(problem.prompt)["input_ids"])
            for index, problem in enumerate(self.problems)
        ]
        timed = Timed(engine)
        start = time.perf_counter()
        number = len(self.runs[side]) if step is None else step
        done = run_groups(self.drivers[side], timed, groups, seed=0, step=number)
        seconds = time.perf_counter() - start
        self.runs[side].append(Run(done, seconds, 1 - timed.seconds / seconds))
        return self.runs[side][-1].leaves_per_s

    def rewards(self, side: str, pool: VerifierPool) -> np.ndarray:
        """Mean reward of each problem over all runs of a side, leaves weighed as the driver says; shape (P,)."""
        by_id = {problem.id: problem for problem in self.problems}
        runs = []
        for run in self.runs[side]:
            apart = [g.replace(rollouts=tuple(Rollout((leaf.id,)) for leaf in g.leaves)) for g in run.groups]
            right = iter(judge(apart, by_id, self.tokenizer, pool.judge).right_N.tolist())
            runs.append([_weighted(group, [next(right) for _ in group.leaves]) for group in run.groups])
        return np.asarray(runs).mean(0)


def against_flat(bench: Bench, engine: Engine, pairs: int, *, counts_prefill: bool) -> dict[str, Any]:
    """Interleaved runs of trees and flat sampling on any engine.

    Raises ``AssertionError`` unless both have the same number of answers to each problem and equal mean rewards, and,
    with ``counts_prefill``, unless T_pre equals the tokens of the prompts that differ.
    """
    warm = Bench(bench.tokenizer, bench.problems[:8], bench.drivers)
    for side in bench.drivers:
        warm.leaves_per_s(side, engine)
    rates = interleaved({side: partial(bench.leaves_per_s, side, engine) for side in ("tree", "flat")}, pairs)
    prompts = sum(map(len, {tuple(group.segments[0].ids.tolist()) for group in bench.runs["flat"][0].groups}))
    for side, runs in bench.runs.items():
        for run in runs:
            few = [group.problem_id for group in run.groups if len(group.leaves) != ANSWERS]
            assert not few, f"{side}: {len(few)} problems have other than {ANSWERS} answers, such as {few[:3]}"
            if counts_prefill:
                assert run.prefilled == prompts, f"{side}: T_pre is {run.prefilled}, prompts that differ have {prompts}"
    with VerifierPool(verifiers=("exact", "number")) as pool:
        reward_P = {side: bench.rewards(side, pool) for side in bench.drivers}
    difference, half = paired_interval(reward_P["tree"] - reward_P["flat"])
    assert abs(difference) <= half, f"trees change the mean reward by {difference:.4f} +- {half:.4f}"
    pair = list(zip(bench.runs["tree"], bench.runs["flat"], strict=True))
    return {
        "problems": len(bench.problems),
        "answers_per_problem": ANSWERS,
        "live": LIVE,
        "cap": bench.drivers["tree"].max_completion,  # type: ignore[attr-defined]
        "segment": bench.drivers["tree"].segment,  # type: ignore[attr-defined]
        "decoded_ratio": [tree.decoded / flat.decoded for tree, flat in pair],
        "speedup": [a / b for a, b in zip(rates["tree"], rates["flat"], strict=True)],
        "leaves_per_s": rates,
        "overhead": {side: [run.overhead for run in runs] for side, runs in bench.runs.items()},
        "decoded": {side: [run.decoded for run in runs] for side, runs in bench.runs.items()},
        "prefilled": {side: [run.prefilled for run in runs] for side, runs in bench.runs.items()},
        "prompt_tokens": prompts,
        "mean_reward": {side: float(reward.mean()) for side, reward in reward_P.items()},
        "reward_difference": [difference - half, difference + half],
    }


def paired_interval(difference_P: np.ndarray) -> tuple[float, float]:
    """Mean of a paired difference and half its 95 % interval."""
    count = len(difference_P)
    half = t_quantile(0.975, count - 1) * float(difference_P.std(ddof=1)) / math.sqrt(count)
    return float(difference_P.mean()), half


def _weighted(group: Group, right: Sequence[bool]) -> float:
    weights = [leaf.weight for leaf in group.leaves]
    return float(np.average(right, weights=weights))
