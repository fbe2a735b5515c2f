"""rollouts/step-*.parquet: one row per leaf, costs counted once, and the whole tree of each group."""

from __future__ import annotations

import os
import random
import tempfile
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import DataError
from laconic.eval.tasks import Problem
from laconic.rewards.verdict import Judgement, Verdict
from laconic.rollout.branches import stretches
from laconic.rollout.records import Cost, Group, Kind, Leaf, Origin, Rollout, Segment, Stop
from laconic.train.experience import Experience
from laconic.train.rollout_log import (
    SCHEMA,
    Outcome,
    SavedGroup,
    drop_rollouts_after,
    read_groups,
    with_texts,
    write_groups,
    write_rollouts,
)
from laconic.train.rows import flatten

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
        reward_N=np.array([1.0, 0.0]),
        advantage_N=np.array([0.5, -0.5]),
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


def test_every_leaf_has_the_tokens_of_its_training_row_and_its_rollouts_longest_path(tmp_path: Path) -> None:
    group = branching_group()
    trunk, branch = read(write_rollouts(tmp_path, 1, experience(), PROBLEMS, Letters()))  # type: ignore[arg-type]
    # Rows are prompt and answer; both leaves stand on one path after another, so T_crit is their length.
    assert [trunk["forward"], branch["forward"]] == [len(group.context_ids(leaf.segment)) for leaf in group.leaves]
    assert [trunk["critical"], branch["critical"]] == [3, 3]


@pytest.mark.parametrize("seed", range(30))
def test_the_rows_in_the_log_are_those_that_are_trained(seed: int, tmp_path: Path) -> None:
    group = random_group(0, random.Random(seed))
    prompt = len(group.segments[0])
    whole = (replace(s, parent_off=prompt) if s.parent == 0 else s for s in group.segments)  # a cut one trains nothing
    group = group.replace(segments=tuple(whole))
    rows = flatten([group], [1.0] * len(group.rollouts), normalizer="row_mean", max_completion=9, keep_all=True)
    saved = with_texts(group, [Outcome()] * len(group.leaves), PROBLEMS["p/0"], Letters())  # type: ignore[arg-type]
    logged = read(write_groups(tmp_path / "x.parquet", [saved], Letters()))  # type: ignore[arg-type]
    assert sorted(row["forward"] for row in logged if row["forward"]) == sorted(map(len, rows))


def test_a_step_whose_groups_were_all_filtered_out_is_an_empty_table(tmp_path: Path) -> None:
    empty = Experience((), (), np.zeros(0, bool), reward_N=np.zeros(0), advantage_N=np.zeros(0))
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


def equal(one: Group, other: Group) -> bool:
    """Field by field, log-probs bit by bit."""
    plain = [field.name for field in fields(Group) if field.name != "segments"]
    if [getattr(one, name) for name in plain] != [getattr(other, name) for name in plain]:
        return False
    pairs = list(zip(one.segments, other.segments, strict=True))
    arrays = all(a.ids.dtype == b.ids.dtype and a.logp.dtype == b.logp.dtype for a, b in pairs) and all(
        a.ids.tobytes() == b.ids.tobytes() and np.array_equal(a.logp, b.logp, equal_nan=True) for a, b in pairs
    )
    none = np.empty(0)
    return arrays and all(
        repr(replace(a, ids=none, logp=none)) == repr(replace(b, ids=none, logp=none)) for a, b in pairs
    )


def random_group(number: int, rng: random.Random) -> Group:
    """Any tree that ``Group.validate`` admits: late splits, copies, every kind and stop, leaves in any order."""
    segments = [segment(0, None, [rng.randrange(26) for _ in range(rng.randint(1, 4))], Kind.PROMPT)]
    for index in range(1, rng.randint(1, 12)):
        parent = rng.choice(segments)
        kind = rng.choice([Kind.SAMPLED] * 4 + [Kind.FORCED, Kind.PROBE, Kind.CONTEXT_COPY])
        ids, origin = [rng.randrange(26) for _ in range(rng.randint(0, 5))], ()
        if kind is Kind.CONTEXT_COPY:
            origin = tuple(
                Origin(s.id, rng.randint(0, len(s)), len(s)) for s in rng.choices(segments, k=rng.randint(1, 2))
            )
            ids = [int(token) for o in origin for token in segments[o.segment].ids[o.start : o.stop]]
        logp = np.array([-rng.expovariate(1) for _ in ids] if kind is Kind.SAMPLED else [np.nan] * len(ids), np.float32)
        cost = Cost(*(rng.randrange(1 << 40) for _ in range(4)))
        stop = rng.choice([None, *Stop]) if kind is not Kind.SAMPLED else rng.choice(list(Stop))
        kept = rng.randint(0, len(parent))
        segments.append(
            Segment(index, parent.id, kept, kind, np.array(ids, np.int32), logp, stop, origin, rng.randrange(99), cost)
        )
    leaves = tuple(Leaf(i, rng.randrange(len(segments)), rng.random()) for i in range(rng.randint(0, 6)))
    order, rollouts = rng.sample(range(len(leaves)), len(leaves)), []
    while order:
        count = rng.randint(1, len(order))
        rollouts.append(Rollout(tuple(order[:count])))
        order = order[count:]
    group = Group(number, "p/0", tuple(segments), leaves, tuple(rollouts))
    group.validate()
    return group


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_groups_that_were_written_are_read_back_equal(seed: int) -> None:
    rng = random.Random(seed)
    saved: list[SavedGroup] = []
    for number in range(rng.randint(0, 3)):
        group = random_group(rng.randrange(9) + 10 * number, rng)
        outcomes = [
            Outcome(
                rng.choice([None, "right"]), rng.choice([None, "7"]), rng.choice([None, 0.1]), rng.choice([None, -1.5])
            )
            for _ in group.leaves
        ]
        saved.append(with_texts(group, outcomes, PROBLEMS["p/0"], Letters(), rng.choice([None, 3])))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        back = read_groups(write_groups(Path(folder) / "new" / "a.parquet", saved, Letters()))  # type: ignore[arg-type]
    assert len(back) == len(saved)
    for one, other in zip(saved, back, strict=True):
        assert equal(one.group, other.group)
        assert replace(one, group=other.group) == other
        other.group.validate()


def test_a_training_step_is_read_back_with_what_became_of_each_leaf(tmp_path: Path) -> None:
    (saved,) = read_groups(write_rollouts(tmp_path, 12, experience(), PROBLEMS, Letters()))  # type: ignore[arg-type]
    assert equal(saved.group, branching_group())
    assert saved.outcomes == (Outcome("right", "7", 1.0, 0.5), Outcome("truncated", None, 0.0, -0.5))
    # The trunk is cut where the branch and the probe leave it.
    assert saved.texts == (("ab",), ("cd", "e"), ("f",), ("gh",))
    assert [len(pieces) for pieces in stretches(saved.group)] == [len(texts) for texts in saved.texts]
    assert (saved.gold, saved.level, saved.step) == ("7", 2, 12)


def test_only_the_last_leaf_of_a_rollout_was_judged_in_training(tmp_path: Path) -> None:
    group = branching_group().replace(rollouts=(Rollout((1, 0)),))
    given = {"reward_N": np.array([1.0]), "advantage_N": np.array([0.5])}
    once = Experience((group,), (Judgement(Verdict.RIGHT, "7"),), np.array([False]), **given)
    rows = read(write_rollouts(tmp_path, 1, once, PROBLEMS, Letters()))  # type: ignore[arg-type]
    assert [(row["leaf"], row["verdict"], row["reward"]) for row in rows] == [(1, None, 1.0), (0, "right", 1.0)]


def test_a_group_without_a_leaf_has_a_row_with_its_cost(tmp_path: Path) -> None:
    group = branching_group().replace(leaves=(), rollouts=())
    path = write_groups(tmp_path / "a.parquet", [with_texts(group, [], PROBLEMS["p/0"], Letters())], Letters())  # type: ignore[arg-type]
    (row,) = read(path)
    assert row["leaf"] is None and {name: row[name] for name in asdict(group.cost)} == asdict(group.cost)


def test_a_token_costs_few_bytes_on_disk(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    group, tokens = branching_group(), 50_000
    ids, logp = rng.integers(0, 26, tokens).astype(np.int32), -rng.exponential(0.3, tokens).astype(np.float32)
    long = replace(group.segments[1], ids=ids, logp=logp)
    group = group.replace(segments=(group.segments[0], long), leaves=(Leaf(0, 1),), rollouts=(Rollout((0,)),))
    saved = with_texts(group, [Outcome()], PROBLEMS["p/0"], Letters())  # type: ignore[arg-type]
    size = write_groups(tmp_path / "a.parquet", [saved], Letters()).stat().st_size  # type: ignore[arg-type]
    assert size < 6 * tokens, "an id and a log-prob alone are 8 bytes"


@pytest.mark.parametrize("what", ["missing", "folder", "text", "other table", "without the first row"])
def test_a_file_without_trees_is_refused_with_its_remedy(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.parquet"
    if what == "folder":
        path.mkdir()
    elif what == "text":
        path.write_text("nothing")
    elif what == "other table":
        pq.write_table(pa.table({"step": [1]}), path)
    elif what == "without the first row":
        write_rollouts(tmp_path, 1, experience(), PROBLEMS, Letters())  # type: ignore[arg-type]
        pq.write_table(pq.read_table(tmp_path / "step-000001.parquet").slice(1), path)
    with pytest.raises(DataError, match="give a|give the|write it again"):
        read_groups(path)
