"""Samples and judges what an evaluation still lacks, down to the single sample, and hands finished rows out early.

    missing: problem -> samples ── engine ──> groups, as they finish ── verifier ──> rows

The noise of a sample depends on the seed, its problem's index and its own number: what is sampled later is what would
have been sampled in one go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from ..rewards.verdict import Item, Judgement, Verdict
from ..rewards.verifiers.answer_part import THINK
from ..rollout.driver import CallSpec
from ..rollout.drivers.flat import FlatDriver
from ..rollout.engines.protocol import Engine
from ..rollout.records import Group, Kind, Leaf, Segment, Stop, prompt_group
from ..rollout.scheduler import run_groups
from .plan import Plan
from .records import Sample, to_table
from .tasks.named import last_box
from .thinking import response_text, think_split

EVAL_STEP = 2**31 - 1
"""Step of the noise key; no training step has it, so evaluation never repeats a training draw."""
WRITE_EVERY = 256
"""Finished samples from which rows are handed out; what a kill costs, besides the samples under way."""
BOXED = {"math", "math_eval", "number", "choice"}
"""Verifiers that read a box, so that one in the thought can be looked at as well."""
Missing = Mapping[int, tuple[int, ...]]
"""Index of a problem -> numbers of the samples to take."""


class Judge(Protocol):
    """What is needed of ``laconic.rewards.pool.VerifierPool``."""

    def judge(self, items: Sequence[Item]) -> list[Judgement]:
        """One judgement per item, in order."""


def sample_missing(
    plan: Plan,
    engine: Engine,
    pool: Judge,
    missing: Missing,
    run_id: str,
    seconds: dict[str, float],
    write: Callable[[pa.Table], None],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Take the samples of ``missing`` and hand their rows to ``write``, a few hundred at a time.

    seconds: gets what sampling (``generate``) and judging (``judge``) took.
    progress: called with the samples taken so far.
    """
    driver = _Some(plan.driver, missing)
    groups = [prompt_group(index, plan.problems[index].id, plan.prompts[index].tolist()) for index in missing]
    started, judged, handed_out = time.perf_counter(), seconds["judge"], 0

    def waiting() -> int:
        return sum(len(group.leaves) for group in driver.finished)

    def hand_out() -> None:
        nonlocal handed_out
        if driver.finished:
            handed_out += waiting()
            write(_rows(plan, pool, driver.finished, missing, run_id, seconds))
            driver.finished.clear()

    def step(_tokens: int, completed: int) -> None:
        if progress is not None and completed:
            progress(handed_out + waiting())
        if waiting() >= WRITE_EVERY:
            hand_out()

    run_groups(driver, engine, groups, seed=plan.seed, step=EVAL_STEP, progress=step)
    hand_out()
    seconds["generate"] += time.perf_counter() - started - (seconds["judge"] - judged)


class _Some:
    """Flat sampling of some of a problem's samples; remembers the groups that are complete."""

    def __init__(self, flat: FlatDriver, samples: Missing) -> None:
        self.flat, self.samples = flat, samples
        self.finished: list[Group] = []

    def start(self, group: Group) -> list[CallSpec]:
        """The calls of the samples that are missing."""
        every = self.flat.start(group)
        return [every[sample] for sample in self.samples[group.id]]

    def on_segment(self, group: Group, segment: Segment) -> list[CallSpec]:
        """As in flat sampling."""
        return self.flat.on_segment(group, segment)

    def finish(self, group: Group) -> Group:
        """As in flat sampling; the group is kept."""
        self.finished.append(self.flat.finish(group))
        return self.finished[-1]


def _rows(
    plan: Plan, pool: Judge, groups: Sequence[Group], missing: Missing, run_id: str, seconds: dict[str, float]
) -> pa.Table:
    """Judge the responses of complete groups."""
    started = time.perf_counter()
    leaves = [(group, leaf) for group in groups for leaf in group.leaves]
    texts = [response_text(plan.tokenizer, group.response_ids(leaf)) for group, leaf in leaves]
    items = []
    for (group, leaf), text in zip(leaves, texts, strict=True):
        problem = plan.problems[group.id]
        # A thought that the prompt has opened belongs to the response, or one that never ends would pass for an answer.
        judged = THINK + text if plan.thoughts[group.id] == "open" else text
        items.append(Item(judged, problem.gold, problem.verifier, group.truncated(leaf)))
    judgements = pool.judge(items)
    loose = _loosely(pool, items, judgements)
    seconds["judge"] += time.perf_counter() - started
    samples = [
        _sample(plan, group, leaf, text, judgement, right, missing[group.id], run_id)
        for (group, leaf), text, judgement, right in zip(leaves, texts, judgements, loose, strict=True)
    ]
    return to_table(samples)


def _loosely(pool: Judge, items: Sequence[Item], judgements: Sequence[Judgement]) -> list[bool]:
    """Whether each response is right if its last box counts wherever it stands; asked only where no answer was read."""
    right = [judgement.verdict.right for judgement in judgements]
    again: dict[int, Item] = {}
    for index, (item, judgement) in enumerate(zip(items, judgements, strict=True)):
        if judgement.verdict in (Verdict.UNREADABLE, Verdict.TRUNCATED) and item.verifier in BOXED:
            box = last_box(item.response)
            if box is not None:
                again[index] = Item(f"\\boxed{{{box}}}", item.gold, item.verifier)
    for index, judgement in zip(again, pool.judge(list(again.values())) if again else [], strict=True):
        right[index] = judgement.verdict.right
    return right


def _sample(
    plan: Plan,
    group: Group,
    leaf: Leaf,
    text: str,
    judgement: Judgement,
    loose: bool,
    samples: Sequence[int],
    run_id: str,
) -> Sample:
    problem = plan.problems[group.id]
    ids_T = group.response_ids(leaf)
    path = group.path(leaf.segment)
    sampled = [(piece, kept) for piece, kept in path if piece.kind is Kind.SAMPLED]
    logp_T = np.concatenate([piece.logp[:kept] for piece, kept in sampled])
    n_think, closed = think_split(ids_T, None if plan.thoughts[group.id] == "closed" else plan.end_ids)
    verdict, prompt = judgement.verdict, group.segments[0]
    failed = verdict in (Verdict.TIMEOUT, Verdict.CRASHED)
    found = "answer" if judgement.extracted is not None else None
    return Sample(
        run_id=run_id,
        benchmark=problem.source,
        benchmark_rev=plan.revisions[problem.source],
        problem_id=problem.id,
        sample_idx=samples[leaf.id],
        seed=plan.seed,
        level=problem.level,
        subject=problem.subject,
        perm=None if problem.options is None else np.asarray(problem.options, np.int32),
        prompt_token_ids=prompt.ids,
        response_token_ids=ids_T,
        n_prompt=len(prompt),
        n_prompt_cached=min(len(prompt), sum(piece.cost.cached for piece, _ in sampled)),
        n_response=len(ids_T),
        n_think=n_think,
        n_answer=len(ids_T) - n_think,
        n_generated=max(len(ids_T), sum(piece.cost.decoded for piece, _ in path)),
        n_injected=len(ids_T) - sum(kept for _, kept in sampled),
        finish_reason=str(group.segments[leaf.segment].stop or Stop.ABORTED),
        think_closed=closed,
        truncated=group.truncated(leaf),
        loop_flag=plan.loop(ids_T, text),
        verdict=str(verdict),
        grade_status=str(verdict) if failed else "ok",
        pred_raw=judgement.extracted,
        gold=problem.gold,
        extract_source="think" if loose and not verdict.right else found,
        correct=verdict.right,
        correct_loose=loose,
        mean_logprob=float(logp_T.mean(dtype=np.float64)) if len(logp_T) else None,
        prompt_text=plan.tokenizer.decode(prompt.ids),
        response_text=text,
    )
