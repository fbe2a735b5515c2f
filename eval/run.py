"""Evaluate a model: k samples per problem, judged, counted, priced and written down.

    problems ── encode ──> groups ── engine ──> responses ── verifier ──> rows ──> samples.parquet ──> summary.json

Rows are written in shards while the run goes on, so a killed run continues where it was, and one that is started again
with a larger k takes the additional samples only. A sample's noise depends on the seed, the index of its problem and of
the sample alone: results do not depend on the shards, and two models are compared under the same noise.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ConfigError, DataError
from ..locking import locked
from ..rollout.drivers.flat import FlatDriver
from ..rollout.engines.protocol import Engine, Sampling
from .cost import linear_costs
from .hardware import Hardware, load_hardware
from .identity import describe_model, versions
from .metrics import LoopRule
from .plan import AUTO, Plan, make_plan
from .records import SAMPLES, SCHEMA, read_samples, read_shards, remove_shards, write_samples, write_shard
from .sampler import Judge, sample_missing
from .summary import SCHEMA_VERSION, blocks, column, plain, write_json
from .tasks.problem import Problem

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""


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
        arguments or a larger k, an unfinished evaluation goes on and a finished one is read. None keeps everything in
        memory.
    cache_dir: finished samples are kept there under the hash of weights, prompts and settings, and taken from there.
    end_think: text that ends a thought; "auto" takes ``</think>`` where the tokenizer has it as one token or the
        prompts open a thought, and else counts everything as answer, as None does.
    name: of the model in reports; the last part of its path by default.

    Raises ``ConfigError`` for settings that cannot work or a folder of another evaluation, ``DataError`` for problems
    that cannot be encoded, repeat an id or do not fit the context, ``RunError`` for a folder that another process is
    evaluating into.
    """
    driver = FlatDriver(group_size=k, max_completion=max_completion, sampling=sampling or Sampling())
    plan = make_plan(model, tokenizer, problems, engine, driver, seed, template, end_think, loop or LoopRule())
    folder = None if out_dir is None else Path(out_dir)
    cache = None if cache_dir is None or plan.weights is None else Path(cache_dir) / plan.key
    run_id = plan.key[:8] if folder is None else folder.name
    seconds = {"generate": 0.0, "judge": 0.0}
    with nullcontext() if folder is None else _held(folder):
        done = _resume(folder, plan)
        missing, cached = _missing(done, plan), False
        if missing and cache is not None and (cache / SAMPLES).is_file():
            done = pa.concat_tables([done, _first(read_samples(cache), k)])
            missing = _missing(done, plan)
            cached = not missing
        if not missing:
            seconds = _earlier_seconds(cache if cached else folder)
        tables, total = [done], len(problems) * k
        finished = total - sum(map(len, missing.values()))

        def write(table: pa.Table) -> None:
            tables.append(table)
            if folder is not None:
                write_shard(folder, table)

        if progress is not None:
            progress(finished, total)
        order = list(missing)
        for start in range(0, len(order), shard_problems):
            chosen = {index: missing[index] for index in order[start : start + shard_problems]}
            step = None if progress is None else _offset(progress, finished, total)
            sample_missing(plan, engine, pool, chosen, run_id, seconds, write, step)
            finished += sum(map(len, chosen.values()))
        hardware = hardware or load_hardware()
        samples = _priced(_ordered(pa.concat_tables(tables), plan, run_id), plan, hardware, batches)
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
        if folder is not None:
            _write(samples, summary, folder)
        if cache is not None and not cached:
            try:
                if _samples_in(cache) <= k:
                    _write(samples, summary, cache)
            except OSError as error:
                log.warning("the samples are not kept for the next time: cannot write to %s: %s", cache, error)
        return EvalResult(summary, samples, folder)


def _held(folder: Path) -> AbstractContextManager[None]:
    """The folder, made where it is missing, for this process alone: two would overwrite each other's shards."""
    folder.mkdir(parents=True, exist_ok=True)
    return locked(folder, "evaluating into", "choose another folder (--out)")


def _write(samples: pa.Table, summary: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_samples(samples, folder / SAMPLES)
    write_json(summary, folder / "summary.json")
    remove_shards(folder)


def _samples_in(cache: Path) -> int:
    """Samples per problem that a cache holds already."""
    path = cache / "summary.json"
    return int(json.loads(path.read_text(encoding="utf-8"))["settings"]["k"]) if path.is_file() else 0


def _resume(folder: Path | None, plan: Plan) -> pa.Table:
    """The rows an earlier run left in ``folder``; marks the folder as this evaluation's."""
    if folder is None:
        return SCHEMA.empty_table()
    mark = folder / "eval.json"
    then: dict[str, Any] = {}
    if mark.is_file():
        try:
            before = json.loads(mark.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise DataError(f"{mark} is not valid JSON; remove {folder} and evaluate again") from error
        then = before.get("settings", {})
        if before.get("key") != plan.key:
            changed = ", ".join(n for n, value in plan.settings.items() if n != "k" and then.get(n) != value)
            raise ConfigError(
                f"{folder} holds another evaluation (different: {changed or 'the weights or the tokenizer'}); "
                "choose another folder or remove this one"
            )
        if then["k"] > plan.k:
            raise ConfigError(
                f"{folder} holds {then['k']} samples per problem and k is {plan.k}; k can be raised, not lowered: "
                "choose another folder"
            )
    if then != plan.settings:
        write_json({"key": plan.key, "settings": plan.settings}, mark)
    whole = [read_samples(folder)] if (folder / SAMPLES).is_file() else []
    return pa.concat_tables([*whole, read_shards(folder)])


def _earlier_seconds(folder: Path | None) -> dict[str, float]:
    """What a finished evaluation took, for one that only reads it again."""
    path = None if folder is None else folder / "summary.json"
    if path is None or not path.is_file():
        return {"generate": 0.0, "judge": 0.0}
    return dict(json.loads(path.read_text(encoding="utf-8"))["seconds"])


def _missing(table: pa.Table, plan: Plan) -> dict[int, tuple[int, ...]]:
    """Index of a problem -> the samples it lacks; problems without a gap are left out."""
    there: dict[tuple[str, str], set[int]] = {}
    names = ("benchmark", "problem_id", "sample_idx")
    for source, problem, sample in zip(*(table[name].to_pylist() for name in names), strict=True):
        there.setdefault((source, problem), set()).add(sample)
    gaps = (sorted({*range(plan.k)} - there.get((problem.source, problem.id), set())) for problem in plan.problems)
    return {index: tuple(gap) for index, gap in enumerate(gaps) if gap}


def _first(table: pa.Table, k: int) -> pa.Table:
    """The rows of the first ``k`` samples."""
    return table.filter(pc.less(table["sample_idx"], k))


def _offset(progress: Progress, finished: int, total: int) -> Callable[[int], None]:
    """Progress of one shard as samples done over all shards."""
    return lambda done: progress(finished + done, total)


def _priced(table: pa.Table, plan: Plan, hardware: Hardware, batches: tuple[int, ...]) -> pa.Table:
    """The rows with their computed costs on ``hardware``."""
    if plan.spec is None or not len(table):
        return table
    costs = linear_costs(plan.spec, hardware, column(table, "n_prompt"), column(table, "n_response"), batches)
    priced = {"flops": costs.flops, "kv_read_bytes": costs.kv_read, "peak_kv_bytes": costs.peak_kv}
    priced |= {"latency_b1_s": costs.latency, "gpu_s_b": costs.gpu_s(max(batches))}
    for name, value_N in priced.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), pa.array(value_N.astype("float64"), pa.float64()))
    return table


def _ordered(table: pa.Table, plan: Plan, run_id: str) -> pa.Table:
    """One row per (problem, sample), in the order of the problems."""
    rank: dict[tuple[int, int], int] = {}
    columns = (table[name].to_pylist() for name in ("benchmark", "problem_id", "sample_idx"))
    for row, (source, problem, sample) in enumerate(zip(*columns, strict=True)):
        rank.setdefault((plan.rank[source, problem], sample), row)
    table = table.take(pa.array([rank[key] for key in sorted(rank)], pa.int64()))
    index = table.schema.get_field_index("run_id")
    return table.set_column(index, table.schema.field(index), pa.array([run_id] * len(table), pa.string()))
