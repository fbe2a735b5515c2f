"""``rollouts/step-000123.parquet``: what was sampled at a step and what became of it, one row per leaf.

Shapes: N rollouts, groups one after another.

Costs are those of the segments that no earlier leaf of the group has counted, and the group's first leaf bears those
of segments without a leaf: a column's sum over a group is the group's cost, however much its leaves share.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from ..atomic import abandoned, fsync, temporary_beside
from ..eval.tasks import Problem
from ..rollout.records import Cost, Group, Leaf, Segment
from .experience import Experience

SCHEMA = pa.schema(
    {
        "step": pa.int64(),
        "group_id": pa.int64(),
        "problem_id": pa.string(),
        "level": pa.int64(),
        "rollout": pa.int64(),
        "leaf": pa.int64(),
        "prompt": pa.string(),
        "response": pa.string(),
        "gold": pa.string(),
        "extracted": pa.string(),
        "verdict": pa.string(),
        "tokens": pa.int64(),
        "stop": pa.string(),
        "reward": pa.float64(),
        "advantage": pa.float64(),
        "policy_version": pa.int64(),
        "decoded": pa.int64(),
        "prefilled": pa.int64(),
        "cached": pa.int64(),
        "kv_read": pa.int64(),
    }
)
"""``tokens`` are the trained tokens of the leaf's path; ``stop`` and ``policy_version`` are those of its end."""
_NAME = re.compile(r"step-(\d{6,})\.parquet")


def write_rollouts(
    folder: Path,
    step: int,
    experience: Experience,
    problems: Mapping[str, Problem],
    tokenizer: PreTrainedTokenizerBase,
) -> Path:
    """Write the rollouts of one step, atomically; a sample of the step's groups is enough.

    Args:
        folder: ``runs/<name>/rollouts``; made if missing.
        problems: by id; those that the groups answer.
        tokenizer: turns ids into text, special tokens shown.

    Raises:
        ValueError: the experience has no rewards or advantages yet, or not one per rollout.
    """
    if experience.reward_N is None or experience.advantage_N is None:
        raise ValueError(f"the rollouts of step {step} have no rewards or advantages yet; shape and credit them first")
    rollouts = [(group, number) for group in experience.groups for number in range(len(group.rollouts))]
    costs = {id(group): _shared_once(group) for group in experience.groups}
    rows: list[dict[str, Any]] = []
    for (group, number), judgement, reward, advantage in zip(
        rollouts, experience.judgement_N, experience.reward_N, experience.advantage_N, strict=True
    ):
        problem = problems[group.problem_id]
        for leaf in (group.leaves[index] for index in group.rollouts[number].leaves):
            end, cost = group.segments[leaf.segment], costs[id(group)][leaf.id]
            rows.append(
                {
                    "step": step,
                    "group_id": group.id,
                    "problem_id": group.problem_id,
                    "level": problem.level,
                    "rollout": number,
                    "leaf": leaf.id,
                    "prompt": _text(tokenizer.decode(group.segments[0].ids)),
                    "response": _text(tokenizer.decode(group.response_ids(leaf))),
                    "gold": _text(problem.gold),
                    "extracted": None if judgement.extracted is None else _text(judgement.extracted),
                    "verdict": str(judgement.verdict),
                    "tokens": group.trained_length(leaf),
                    "stop": None if end.stop is None else str(end.stop),
                    "reward": float(reward),
                    "advantage": float(advantage),
                    "policy_version": end.policy_version,
                    "decoded": cost.decoded,
                    "prefilled": cost.prefilled,
                    "cached": cost.cached,
                    "kv_read": cost.kv_read,
                }
            )
    return _write(folder, step, pa.Table.from_pylist(rows, schema=SCHEMA))


def drop_rollouts_after(folder: Path, step: int) -> None:
    """Remove the files of later steps, which a run that goes on from ``step`` will write again."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and int(match[1]) > step:
            path.unlink()
    for path in abandoned(folder):
        path.unlink()


def _write(folder: Path, step: int, table: pa.Table) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:06d}.parquet"
    temporary = temporary_beside(path)
    try:
        pq.write_table(table, temporary, compression="zstd")
        fsync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync(folder)
    return path


def _shared_once(group: Group) -> dict[int, Cost]:
    """Leaf id -> cost of the segments on its path that no earlier leaf has counted."""
    counted: set[int] = set()
    costs: dict[int, Cost] = {}
    for leaf in group.leaves:
        costs[leaf.id] = sum((segment.cost for segment in _uncounted(group, leaf, counted)), Cost())
    if group.leaves:
        first = group.leaves[0].id
        costs[first] = sum((s.cost for s in group.segments if s.id not in counted), costs[first])
    return costs


def _uncounted(group: Group, leaf: Leaf, counted: set[int]) -> list[Segment]:
    fresh = [segment for segment, _ in group.path(leaf.segment) if segment.id not in counted]
    counted.update(segment.id for segment in fresh)
    return fresh


def _text(text: str) -> str:
    """Parquet holds valid UTF-8 only; a lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
