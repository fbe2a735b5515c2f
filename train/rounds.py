"""The rollouts of one generation, sampled in as many rounds as the sampler asks for.

    sampler.ask ──> roll out ──> judge ──> sampler.record_outcomes ──> truncate ──> filter ──> sampler.ask_again ──┐
                       ^                                                                                           │
                       └───────────────────────────── until it asks for no more <──────────────────────────────────┘

All rounds decode with the same weights. Group ids go on from round to round. A round that is not to be trained (a pilot
for estimates) is judged, and its cost counted, like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..rollout.driver import RolloutDriver
from ..rollout.drivers.sized import SizedDriver
from ..rollout.records import Group, prompt_group
from ..rollout.scheduler import run_or_park
from .adapter import causal_lm
from .experience import Experience, judge, passing_groups, truncate
from .interrupt import Interrupted
from .parking import waiting_ids
from .samplers import Outcome, Round
from .samplers.gradient_norms import embedding_norms

if TYPE_CHECKING:
    from .trainer import LaconicTrainer


@dataclass(frozen=True)
class Sampled:
    """What the rounds gave; the experiences are this rank's."""

    judged: Experience
    """Every new group, before truncation."""
    candidates: Experience
    """What may be trained, after truncation: groups of rounds for training, and finished ones that had waited."""
    passed: list[int]
    """Ids of all ranks' candidates that passed the filter, ascending."""
    groups: tuple[Group, ...]
    """This rank's candidates before truncation."""
    resumed: int
    """Groups of all ranks that had waited."""


def sample_rounds(trainer: LaconicTrainer) -> Sampled:
    """Sample, judge and truncate until the sampler is content, and tell it what came out."""
    sampler, rollout = trainer.sampler, trainer.settings.rollout
    waiting = waiting_ids(trainer)
    spare = [one.group for one in trainer.parked if one.finished]
    first_id = max(waiting, default=-1) + 1
    judged: list[Experience] = []
    candidates: list[Experience] = []
    groups: list[Group] = []
    passed: list[int] = []
    trained: set[int] = set()
    sampler.begin(trainer.generation)
    ask: Round | None = sampler.ask(rollout.prompts_per_step, rollout.group_size, len(waiting))
    while ask is not None:
        with trainer._phase("rollout"):
            new = roll_out(trainer, ask, first_id)
            first_id += len(ask.indices)
        with trainer._phase("judge"):
            mine = sorted([*spare, *new], key=lambda group: group.id)
            before = judge(mine, trainer.problem_by_id, trainer._tokenizer, trainer.judge_items)
            judged.append(before.only({group.id for group in new}))
            sampler.record_outcomes(_outcomes(trainer, judged[-1]))
            if ask.trained:
                after = truncate(
                    before, trainer.settings.truncation, trainer.problem_by_id, trainer._tokenizer, trainer.judge_items
                )
                candidates.append(after)
                groups += mine
                passed += trainer._on_all_ranks(passing_groups(after, trainer.settings.sampler.filter))
                trained |= set(trainer._on_all_ranks([group.id for group in new]))
        spare = []
        ask = sampler.ask_again(rollout.prompts_per_step, rollout.group_size, len(passed))
    sampler.record(passed=len(trained.intersection(passed)), sampled=len(trained))
    return Sampled(join(judged), join(candidates), sorted(passed), tuple(groups), len(waiting))


def roll_out(trainer: LaconicTrainer, ask: Round, first_id: int = 0) -> list[Group]:
    """Sample one group for each of this rank's share of these problems, and go on with those that were parked.

    Returns the finished ones. Under ``rollout.park_after`` others wait in ``trainer.parked``, and where no rank has a
    finished one, decoding goes on.
    """
    groups = [
        prompt_group(first_id + number, trainer.problems[index].id, trainer.prompts.at(index, trainer.generation))
        for number, index in trainer.ranks.mine(ask.indices)
    ]
    driver = driver_for(trainer, ask, first_id)
    parked = [one for one in trainer.parked if not one.finished]
    trainer.engine.sync(None, trainer.state.global_step)

    def progress(decoded: int, finished: int) -> None:
        if trainer.stop_requested:
            raise Interrupted
        if trainer.on_tokens is not None:
            trainer.on_tokens(decoded, finished)

    seed, cap, finished = trainer.settings.seed, trainer.settings.rollout.park_after, groups
    while True:
        try:
            finished, parked = run_or_park(
                driver, trainer.engine, groups, seed=seed, step=trainer.generation, park_after=cap, parked=parked,
                progress=progress,
            )  # fmt: skip
        except Interrupted:
            assert trainer.stop_requested
        # A rank that had finished its rollouts when Ctrl-C came stops with the others.
        if trainer.ranks.any(trainer.stop_requested):
            trainer.stop_requested = True
            raise Interrupted
        if not cap or trainer.ranks.any(bool(finished)):
            trainer.parked = parked
            return finished
        groups = []


def join(parts: Sequence[Experience]) -> Experience:
    """The groups of several rounds, not yet shaped."""
    return Experience(
        tuple(group for part in parts for group in part.groups),
        tuple(judgement for part in parts for judgement in part.judgement_N),
        np.concatenate([part.cut_N for part in parts]),
    )


def driver_for(trainer: LaconicTrainer, ask: Round, first_id: int) -> RolloutDriver:
    """The trainer's driver, or one per group where the sampler wants other sizes, or another longest answer."""
    rollout = trainer.settings.rollout
    longest = trainer.sampler.longest(rollout.max_completion)
    if longest == rollout.max_completion and set(ask.sizes) <= {rollout.group_size}:
        return trainer.driver
    by_size = {
        size: replace(trainer.driver, group_size=size, max_completion=longest)  # type: ignore[type-var]
        for size in set(ask.sizes)
    }
    return SizedDriver({first_id + number: by_size[size] for number, size in enumerate(ask.sizes)})


def _outcomes(trainer: LaconicTrainer, judged: Experience) -> list[Outcome]:
    """What became of the problems on all ranks, in the order of group ids."""
    group_N, right_N, norm_N = judged.group_N, judged.right_N, _norms(trainer, judged)
    sampled, right, norm = (
        np.bincount(group_N, weights, len(judged.groups)) for weights in (None, right_N.astype(float), norm_N)
    )
    mine = [
        (group.id, group.problem_id, int(sampled[p]), int(right[p]), float(norm[p]))
        for p, group in enumerate(judged.groups)
    ]
    everyone = sorted(one for part in trainer.ranks.gather(mine) for one in part)
    return [
        Outcome(trainer.index_of[problem], answers, right_ones, norm_sum)
        for _, problem, answers, right_ones, norm_sum in everyone
    ]


def _norms(trainer: LaconicTrainer, judged: Experience) -> NDArray[np.float64]:
    """What the sampler wants to know of the gradient of each right answer, 0 for wrong ones; float64 (N,)."""
    wanted, right_N = trainer.sampler.norm, judged.right_N
    if wanted == "sqrt_length":
        return np.sqrt(judged.length_N) * right_N
    if wanted == "embedding":
        model = causal_lm(trainer.accelerator.unwrap_model(trainer.model))
        with trainer.accelerator.autocast():
            return embedding_norms(
                model, judged.groups, right_N, trainer.settings.optim.micro_batch_tokens, trainer.accelerator.device
            )
    return np.zeros(len(right_N))
