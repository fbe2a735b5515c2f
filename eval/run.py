"""Evaluate a model: k samples per problem, judged, counted, priced and written down.

    problems ── encode ──> groups ── engine ──> responses ── verifier ──> rows ──> samples.parquet ──> summary.json

Rows are written in shards while the run goes on, so a killed run continues where it was. A sample's noise depends on
the seed, the index of its problem and of the sample alone: results do not depend on the shards, and two models are
compared under the same noise.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ..errors import ConfigError, DataError
from ..rewards.verdict import Item, Judgement
from ..rewards.verifiers.answer_part import END_THINK
from ..rollout.drivers.flat import FlatDriver
from ..rollout.engines.protocol import Engine, Sampling
from ..rollout.records import Group, Ids, Kind, Leaf, Stop, prompt_group
from ..rollout.scheduler import run_groups
from .hardware import Hardware, load_hardware
from .identity import describe_model, eval_key, model_spec, problems_hash, versions, weights_hash
from .metrics import LoopRule
from .model_spec import ModelSpec
from .records import (
    SAMPLES,
    Sample,
    read_samples,
    read_shards,
    remove_shards,
    to_table,
    write_samples,
    write_shard,
)
from .summary import SCHEMA_VERSION, blocks, plain, write_json
from .tasks.problem import Problem
from .tasks.prompt import encode_prompt
from .thinking import end_think_ids, think_split

# Shapes: T tokens of one response

EVAL_STEP = 2**31 - 1
"""Step of the noise key; no training step has it, so evaluation never repeats a training draw."""
AUTO = "auto"
Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""


class Judge(Protocol):
    """What is needed of ``laconic.rewards.pool.VerifierPool``."""

    def judge(self, items: Sequence[Item]) -> list[Judgement]:
        """One judgement per item, in order."""


@dataclass(frozen=True)
class EvalResult:
    """An evaluation's numbers and rows."""

    summary: dict[str, Any]
    """The content of ``summary.json``."""
    samples: pa.Table
    """One row per response; columns as in ``laconic.eval.records.SCHEMA``."""
    folder: Path | None = None
    """Where both were written."""

    @property
    def accuracy(self) -> float:
        """Mean over problems of the share of right answers."""
        return float(self.summary["overall"]["accuracy"]["avg_at_k"]["value"])

    @property
    def tokens_mean(self) -> float:
        """Mean response length."""
        return float(self.summary["overall"]["tokens"]["mean"])


def evaluate(
    model: Any,
    tokenizer: Any,
    problems: Sequence[Problem],
    *,
    engine: Engine,
    pool: Judge,
    k: int = 4,
    sampling: Sampling | None = None,
    max_completion: int = 640,
    seed: int = 0,
    progress: Progress | None = None,
    out_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    template: str | None = None,
    hardware: Hardware | None = None,
    batches: tuple[int, ...] = (1, 64),
    end_think: str | None = AUTO,
    loop: LoopRule | None = None,
    name: str | None = None,
    shard_problems: int = 512,
) -> EvalResult:
    """Sample, judge and summarise.

    model: the module that ``engine`` decodes with, its folder, or its name on a hub: for its size and its hash.
    template: text with ``{prompt}`` around every prompt.
    out_dir: gets ``eval.json``, the shards, ``samples.parquet`` and ``summary.json``; started again with the same
        arguments, an unfinished evaluation goes on and a finished one is read. None keeps everything in memory.
    cache_dir: finished samples are kept there under the hash of weights, prompts and settings, and taken from there.
    end_think: text that ends a thought; "auto" takes ``</think>`` where the tokenizer has it as one token and else
        counts everything as answer, as None does.
    name: of the model in reports; the last part of its path by default.

    Raises ``ConfigError`` for settings that cannot work or a folder of another evaluation, ``DataError`` for problems
    that cannot be encoded, repeat an id or do not fit the context.
    """
    plan = _plan(
        model, tokenizer, problems, engine, k, sampling or Sampling(), max_completion, seed, template, end_think,
        loop or LoopRule(),
    )  # fmt: skip
    folder = None if out_dir is None else Path(out_dir)
    cache = None if cache_dir is None or plan.weights is None else Path(cache_dir) / plan.key
    run_id = plan.key[:8] if folder is None else folder.name
    seconds = {"generate": 0.0, "judge": 0.0}
    done = _resume(folder, plan)
    cached = False
    if len(done) < len(problems) * k and cache is not None and (cache / SAMPLES).is_file():
        done, cached = read_samples(cache), True
    have = _complete(done, problems, k)
    missing = [index for index in range(len(problems)) if not have[index]]
    if not missing:
        seconds = _earlier_seconds(cache if cached else folder)
    tables, finished = [done], (len(problems) - len(missing)) * k
    total = len(problems) * k
    if progress is not None:
        progress(finished, total)
    for start in range(0, len(missing), shard_problems):
        chosen = missing[start : start + shard_problems]
        table = _shard(plan, engine, pool, chosen, run_id, seconds, _offset(progress, finished, k, total))
        finished += len(chosen) * k
        tables.append(table)
        if folder is not None:
            write_shard(folder, table)
    samples = _ordered(pa.concat_tables(tables), plan, run_id)
    hardware = hardware or load_hardware()
    summary = plain(
        {
            "schema_version": SCHEMA_VERSION,
            "run_id": run_id,
            "model": describe_model(model, name, plan.weights, plan.spec),
            "settings": plan.settings,
            "key": plan.key,
            "hardware": hardware.as_dict(),
            "batches": batches,
            "versions": versions(),
            "seconds": seconds,
            "cached": cached,
            **blocks(samples, plan.spec, hardware, batches),
        }
    )
    for target in (folder, None if cached else cache):
        if target is not None:
            target.mkdir(parents=True, exist_ok=True)
            write_samples(samples, target / SAMPLES)
            write_json(summary, target / "summary.json")
            remove_shards(target)
    return EvalResult(summary, samples, folder)


@dataclass(frozen=True)
class _Plan:
    """Everything decided before the first token."""

    tokenizer: Any
    problems: Sequence[Problem]
    prompts: list[Ids]
    driver: FlatDriver
    seed: int
    end_ids: tuple[int, ...] | None
    loop: LoopRule
    weights: str | None
    spec: ModelSpec | None
    settings: dict[str, Any]
    key: str
    rank: dict[tuple[str, str], int] = field(default_factory=dict)
    """(source, id) of a problem -> its index."""


def _plan(
    model: Any,
    tokenizer: Any,
    problems: Sequence[Problem],
    engine: Engine,
    k: int,
    sampling: Sampling,
    max_completion: int,
    seed: int,
    template: str | None,
    end_think: str | None,
    loop: LoopRule,
) -> _Plan:
    if not problems:
        raise ConfigError("there are no problems to evaluate; raise the number of problems to at least 1")
    rank = {(problem.source, problem.id): index for index, problem in enumerate(problems)}
    if len(rank) != len(problems):
        raise DataError(f"{len(problems) - len(rank)} problems repeat the id of another; ids must be unique in a task")
    driver = FlatDriver(group_size=k, max_completion=max_completion, sampling=sampling)
    prompts = [encode_prompt(problem, tokenizer, template) for problem in problems]
    spec = model_spec(model)
    limit = getattr(engine, "max_context", None)
    longest = max(range(len(prompts)), key=lambda index: len(prompts[index]))
    if limit is not None and len(prompts[longest]) + max_completion > limit:
        raise DataError(
            f"problem {problems[longest].id!r} has a prompt of {len(prompts[longest])} tokens; with max_completion "
            f"{max_completion} it exceeds the context of {limit} tokens; lower max_completion or drop the problem"
        )
    if end_think == AUTO:
        end_think = END_THINK if END_THINK in tokenizer.get_vocab() else None
    settings = {
        "tasks": list(dict.fromkeys(problem.source for problem in problems)),
        "n_problems": len(problems),
        "k": k,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_completion": max_completion,
        "seed": seed,
        "template": template,
        "verifiers": sorted({problem.verifier for problem in problems}),
        "problems_hash": problems_hash(problems),
        "engine": type(engine).__name__,
        "end_think": end_think,
    }
    weights = weights_hash(model)
    key = eval_key(weights or str(model), prompts, settings | {"laconic": versions()["laconic"], "loop": repr(loop)})
    end_ids = None if end_think is None else end_think_ids(tokenizer, end_think)
    return _Plan(tokenizer, problems, prompts, driver, seed, end_ids, loop, weights, spec, settings, key, rank)


def _resume(folder: Path | None, plan: _Plan) -> pa.Table:
    """The rows an earlier, unfinished run left in ``folder``; marks the folder as this evaluation's."""
    if folder is None:
        return to_table([])
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "eval.json"
    if mark.is_file():
        try:
            before = json.loads(mark.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise DataError(f"{mark} is not valid JSON; remove {folder} and evaluate again") from error
        if before.get("key") != plan.key:
            then = before.get("settings", {})
            changed = ", ".join(name for name, value in plan.settings.items() if then.get(name) != value)
            raise ConfigError(
                f"{folder} holds another evaluation (different: {changed or 'the weights or the tokenizer'}); "
                "choose another folder or remove this one"
            )
    else:
        write_json({"key": plan.key, "settings": plan.settings}, mark)
    return read_samples(folder) if (folder / SAMPLES).is_file() else read_shards(folder)


def _earlier_seconds(folder: Path | None) -> dict[str, float]:
    """What a finished evaluation took, for one that only reads it again."""
    path = None if folder is None else folder / "summary.json"
    if path is None or not path.is_file():
        return {"generate": 0.0, "judge": 0.0}
    return dict(json.loads(path.read_text(encoding="utf-8"))["seconds"])


def _complete(table: pa.Table, problems: Sequence[Problem], k: int) -> list[bool]:
    """Which problems have all their samples."""
    counts: dict[tuple[str, str], set[int]] = {}
    names = ("benchmark", "problem_id", "sample_idx")
    for source, problem, sample in zip(*(table[name].to_pylist() for name in names), strict=True):
        counts.setdefault((source, problem), set()).add(sample)
    return [len(counts.get((problem.source, problem.id), ())) == k for problem in problems]


def _shard(
    plan: _Plan,
    engine: Engine,
    pool: Judge,
    chosen: Sequence[int],
    run_id: str,
    seconds: dict[str, float],
    progress: Callable[[int, int], None] | None,
) -> pa.Table:
    """Sample and judge some problems."""
    started = time.perf_counter()
    groups = [prompt_group(index, plan.problems[index].id, plan.prompts[index].tolist()) for index in chosen]
    groups = run_groups(plan.driver, engine, groups, seed=plan.seed, step=EVAL_STEP, progress=progress)
    texts = [
        plan.tokenizer.decode(group.response_ids(leaf), skip_special_tokens=True)
        for group in groups
        for leaf in group.leaves
    ]
    sampled = time.perf_counter()
    leaves = [(group, leaf) for group in groups for leaf in group.leaves]
    items = []
    for (group, leaf), text in zip(leaves, texts, strict=True):
        problem = plan.problems[group.id]
        items.append(Item(text, problem.gold, problem.verifier, group.truncated(leaf)))
    judgements = pool.judge(items)
    seconds["generate"] += sampled - started
    seconds["judge"] += time.perf_counter() - sampled
    rows = [
        _sample(plan, group, leaf, text, judgement, run_id)
        for (group, leaf), text, judgement in zip(leaves, texts, judgements, strict=True)
    ]
    return to_table(rows)


def _sample(plan: _Plan, group: Group, leaf: Leaf, text: str, judgement: Judgement, run_id: str) -> Sample:
    problem = plan.problems[group.id]
    ids_T = group.response_ids(leaf)
    path = group.path(leaf.segment)
    logp_T = np.concatenate([piece.logp[:kept] for piece, kept in path if piece.kind is Kind.SAMPLED])
    n_think, closed = think_split(ids_T, plan.end_ids)
    stop = group.segments[leaf.segment].stop
    return Sample(
        run_id=run_id,
        benchmark=problem.source,
        problem_id=problem.id,
        sample_idx=leaf.id,
        seed=plan.seed,
        level=problem.level,
        prompt_token_ids=group.segments[0].ids,
        response_token_ids=ids_T,
        n_prompt=len(group.segments[0]),
        n_response=len(ids_T),
        n_think=n_think,
        n_answer=len(ids_T) - n_think,
        n_generated=max(len(ids_T), sum(piece.cost.decoded for piece, _ in path)),
        finish_reason=str(stop or Stop.ABORTED),
        think_closed=closed,
        truncated=group.truncated(leaf),
        loop_flag=plan.loop(ids_T, text),
        verdict=str(judgement.verdict),
        pred_raw=judgement.extracted,
        gold=problem.gold,
        correct=judgement.verdict.right,
        mean_logprob=float(logp_T.mean(dtype=np.float64)) if len(logp_T) else None,
        prompt_text=plan.tokenizer.decode(group.segments[0].ids),
        response_text=text,
    )


def _offset(progress: Progress | None, finished: int, k: int, total: int) -> Callable[[int, int], None] | None:
    """The scheduler's progress, (tokens, groups completed), as samples done over all shards."""
    if progress is None:
        return None
    groups = 0

    def report(_tokens: int, completed: int) -> None:
        nonlocal groups
        groups += completed
        progress(finished + groups * k, total)

    return report


def _ordered(table: pa.Table, plan: _Plan, run_id: str) -> pa.Table:
    """One row per (problem, sample), in the order of the problems."""
    rank: dict[tuple[int, int], int] = {}
    columns = (table[name].to_pylist() for name in ("benchmark", "problem_id", "sample_idx"))
    for row, (source, problem, sample) in enumerate(zip(*columns, strict=True)):
        rank.setdefault((plan.rank[source, problem], sample), row)
    table = table.take(pa.array([rank[key] for key in sorted(rank)], pa.int64()))
    index = table.schema.get_field_index("run_id")
    return table.set_column(index, table.schema.field(index), pa.array([run_id] * len(table), pa.string()))
