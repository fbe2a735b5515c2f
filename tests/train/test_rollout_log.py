"""rollouts/step-*.parquet: one row per leaf, costs counted once."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from laconic.eval.tasks import Problem
from laconic.rewards.verdict import Judgement, Verdict
from laconic.rollout.records import Cost, Group, Kind, Leaf, Rollout, Segment, Stop
from laconic.train.experience import Experience
from laconic.train.rollout_log import SCHEMA, drop_rollouts_after, write_rollouts

PROBLEMS = {"p/0": Problem("p/0", "a", "7", "p", level=2)}


class Letters:
    """A tokenizer for 26 tokens."""

    def decode(self, ids: Any) -> str:
        return "".join(chr(97 + int(token)) for token in ids)


def segment(number: int, parent: int | None, ids: list[int], kind: Kind, **more: Any) -> Segment:
    logp = np.full(len(ids), -1.0 if kind is Kind.SAMPLED else np.nan, np.float32)
    return Segment(number, parent, 0 if parent is None else 2, kind, np.array(ids, np.int32), logp, **more)


def branching_group() -> Group:
    """A prompt of two tokens, a trunk of three of which two are shared, two branches, and a discarded segment."""
    return Group(
        4,
        "p/0",
        (
            segment(0, None, [0, 1], Kind.PROMPT, cost=Cost(prefilled=2)),
            segment(1, 0, [2, 3, 4], Kind.SAMPLED, stop=Stop.EOS, policy_version=5, cost=Cost(3, 0, 2, 12)),
            segment(2, 1, [5], Kind.SAMPLED, stop=Stop.LENGTH, policy_version=6, cost=Cost(1, 0, 4, 5)),
            segment(3, 1, [6, 7], Kind.PROBE, cost=Cost(2, 1, 3, 9)),
        ),
        (Leaf(0, 1), Leaf(1, 2)),
        (Rollout((0,)), Rollout((1,))),
    )


def experience() -> Experience:
    return Experience(
        (branching_group(),),
        (Judgement(Verdict.RIGHT, "7"), Judgement(Verdict.TRUNCATED)),
        np.array([False, False]),
        np.array([1.0, 0.0]),
        np.array([0.5, -0.5]),
    )


def read(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def test_each_leaf_is_a_row_with_its_texts_outcome_and_stop(tmp_path: Path) -> None:
    branching_group().validate()
    path = write_rollouts(tmp_path / "rollouts", 12, experience(), PROBLEMS, Letters())  # type: ignore[arg-type]
    assert path == tmp_path / "rollouts" / "step-000012.parquet"
    assert pq.read_schema(path).equals(SCHEMA)
    trunk, branch = read(path)
    assert {
        "step": 12,
        "group_id": 4,
        "problem_id": "p/0",
        "level": 2,
        "prompt": "ab",
        "gold": "7",
    }.items() <= trunk.items()
    assert {"response": "cde", "tokens": 3, "stop": "eos", "policy_version": 5, "leaf": 0}.items() <= trunk.items()
    assert {"verdict": "right", "extracted": "7", "reward": 1.0, "advantage": 0.5}.items() <= trunk.items()
    assert {"response": "cdf", "tokens": 3, "stop": "length", "policy_version": 6, "leaf": 1}.items() <= branch.items()
    assert {"verdict": "truncated", "extracted": None, "reward": 0.0, "advantage": -0.5}.items() <= branch.items()
    assert list(path.parent.iterdir()) == [path]


def test_costs_of_shared_and_of_discarded_segments_are_counted_once(tmp_path: Path) -> None:
    rows = read(write_rollouts(tmp_path, 1, experience(), PROBLEMS, Letters()))  # type: ignore[arg-type]
    total = branching_group().cost
    for name in ("decoded", "prefilled", "cached", "kv_read"):
        assert sum(row[name] for row in rows) == getattr(total, name)
    assert rows[1]["decoded"] == 1


def test_a_step_whose_groups_were_all_filtered_out_is_an_empty_table(tmp_path: Path) -> None:
    empty = Experience((), (), np.zeros(0, bool), np.zeros(0), np.zeros(0))
    path = write_rollouts(tmp_path, 1, empty, PROBLEMS, Letters())  # type: ignore[arg-type]
    assert read(path) == [] and pq.read_schema(path).equals(SCHEMA)


def test_rollouts_that_are_not_credited_or_not_aligned_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rewards or advantages yet"):
        write_rollouts(tmp_path, 1, replace(experience(), reward_N=None), PROBLEMS, Letters())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="zip"):
        write_rollouts(tmp_path, 1, replace(experience(), reward_N=np.zeros(3)), PROBLEMS, Letters())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_lone_surrogates_do_not_stop_the_log(tmp_path: Path) -> None:
    class Broken:
        def decode(self, ids: Any) -> str:
            return "a\ud800b"

    assert read(write_rollouts(tmp_path, 1, experience(), PROBLEMS, Broken()))[0]["response"] == "a?b"  # type: ignore[arg-type]


def test_going_on_from_a_step_removes_the_later_files_and_half_written_ones(tmp_path: Path) -> None:
    drop_rollouts_after(tmp_path / "missing", 3)
    for step in (1, 5, 10, 15):
        write_rollouts(tmp_path, step, experience(), PROBLEMS, Letters())  # type: ignore[arg-type]
    (tmp_path / f".tmp-step-000020.parquet-{os.getpid()}").write_bytes(b"half")
    drop_rollouts_after(tmp_path, 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{s:06d}.parquet" for s in (1, 5, 10)]
