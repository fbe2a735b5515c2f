"""``rollouts/step-000123.parquet``: what was sampled at a step and what became of it, one row per leaf.

Costs are those of the segments that no earlier leaf of the group has counted, and the group's first leaf bears those
of segments without a leaf: a column's sum over a group is the group's cost, however much its leaves share.

The first row of a group also holds all its segments (``rollout/saved.py``), so that ``read_groups`` gives the group
back as it was. A group without a leaf has one row all the same.

Shapes: N rollouts, groups one after another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from ..atomic import abandoned, write_whole
from ..errors import DataError
from ..eval.tasks import Problem
from ..rollout.branches import stretches
from ..rollout.records import Cost, Group, Leaf, Rollout, Segment
from ..rollout.saved import COSTS, SEGMENTS, dump_segments, load_segments
from ..rollout.savings import critical_tokens
from .experience import Experience

SCHEMA = pa.schema(
    {
        "step": pa.int64(),
        "begun": pa.int64(),
        "group_id": pa.int64(),
        "problem_id": pa.string(),
        "level": pa.int64(),
        "rollout": pa.int64(),
        "leaf": pa.int64(),
        "segment": pa.int64(),
        "weight": pa.float64(),
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
        **dict.fromkeys(COSTS, pa.int64()),
        "forward": pa.int64(),
        "critical": pa.int64(),
        "segments": SEGMENTS,
    }
)
"""``tokens`` are the trained tokens of the leaf's path. ``segment`` is where it ends, and ``stop`` and
``policy_version`` are those of this end. ``verdict`` and ``extracted`` are null on a leaf that was not judged: training
asks about the last leaf of a rollout. Reward and advantage are the rollout's, as is ``critical``, its T_crit; ``begun``
is ``Group.step``. ``forward`` is T_train: tokens of the row that trains the leaf, context included, 0 where an earlier
leaf of the rollout has trained all of it. A row without advantage is left out of the training, unless a KL or an
entropy term needs it."""
_NAME = re.compile(r"step-(\d{6,})\.parquet")
_LOGP = "segments.list.element.logp.list.element"
"""The bytes of log-probs compress by their place in the number ..."""
_WORDS = [
    *(field.name for field in SCHEMA if field.name != "segments"),
    *(f"segments.list.element.{name}" for name in ("kind", "stop", "ids.list.element", "text.list.element")),
]
"""... and a dictionary is for what repeats."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a leaf; None where nobody asked."""

    verdict: str | None = None
    extracted: str | None = None
    """The answer that was read from it."""
    reward: float | None = None
    advantage: float | None = None


@dataclass(frozen=True)
class SavedGroup:
    """One group with all that is needed to look at it."""

    group: Group
    outcomes: tuple[Outcome, ...]
    """By leaf."""
    texts: tuple[tuple[str, ...], ...]
    """By segment, the text of each of its stretches (``rollout/branches.py``), special tokens shown."""
    gold: str
    level: int | None = None
    step: int | None = None
    """Of training."""


def with_texts(
    group: Group,
    outcomes: Sequence[Outcome],
    problem: Problem,
    tokenizer: PreTrainedTokenizerBase,
    step: int | None = None,
) -> SavedGroup:
    """A group of ``problem`` and what became of its leaves, in their order."""
    if len(outcomes) != len(group.leaves):
        raise ValueError(f"group {group.id} has {len(group.leaves)} leaves, but there are {len(outcomes)} outcomes")
    texts = tuple(
        tuple(_text(tokenizer.decode(piece.segment.ids[piece.start : piece.stop])) for piece in pieces)
        for pieces in stretches(group)
    )
    return SavedGroup(group, tuple(outcomes), texts, _text(problem.gold), problem.level, step)


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
    rollouts = [(group, rollout) for group in experience.groups for rollout in group.rollouts]
    outcomes: dict[int, dict[int, Outcome]] = {group.id: {} for group in experience.groups}
    for (group, rollout), judgement, reward, advantage in zip(
        rollouts, experience.judgement_N, experience.reward_N, experience.advantage_N, strict=True
    ):
        shared = Outcome(reward=float(reward), advantage=float(advantage))
        outcomes[group.id] |= dict.fromkeys(rollout.leaves, shared)
        judged = Outcome(str(judgement.verdict), judgement.extracted, shared.reward, shared.advantage)
        outcomes[group.id][rollout.leaves[-1]] = judged
    groups = [
        with_texts(group, [outcomes[group.id][leaf.id] for leaf in group.leaves], problems[group.problem_id], tokenizer,
                   step)
        for group in experience.groups
    ]  # fmt: skip
    return write_groups(folder / f"step-{step:06d}.parquet", groups, tokenizer)


def write_groups(path: Path, groups: Sequence[SavedGroup], tokenizer: PreTrainedTokenizerBase) -> Path:
    """Write groups to ``path``, atomically; its folder is made if missing."""
    rows = [row for saved in groups for row in _rows(saved, tokenizer)]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    path.parent.mkdir(parents=True, exist_ok=True)
    encodings = {"use_dictionary": _WORDS, "use_byte_stream_split": [_LOGP]}
    write_whole(path, lambda temporary: pq.write_table(table, temporary, compression="zstd", **encodings))
    return path


def read_groups(path: Path) -> list[SavedGroup]:
    """The groups in a file that ``write_groups`` or ``write_rollouts`` wrote, equal to what they were given.

    Raises:
        DataError: no such file, or one that holds no trees.
    """
    if not path.is_file():
        raise DataError(f"no file at {path}; give a .parquet file of laconic rollout --out, or of runs/<name>/rollouts")
    try:
        names = pq.read_schema(path).names
        missing = [name for name in SCHEMA.names if name not in names]
        rows = [] if missing else pq.read_table(path, columns=SCHEMA.names).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}); write it again") from error
    if missing:
        raise DataError(
            f"{path} has no column {missing[0]!r}, so it holds no trees; give a file that laconic rollout --out or a "
            "training run of this version wrote"
        )
    starts = [index for index, row in enumerate(rows) if row["segments"] is not None]
    if rows and starts[:1] != [0]:
        raise DataError(f"{path} begins within a group, so rows of it are missing; give the file as it was written")
    return [_group(rows[start:stop]) for start, stop in pairwise([*starts, len(rows)])]


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


def _rows(saved: SavedGroup, tokenizer: PreTrainedTokenizerBase) -> Iterator[dict[str, Any]]:
    group, costs = saved.group, _shared_once(saved.group)
    first: dict[str, Any] = {"segments": dump_segments(group, saved.texts)}
    common = {
        "step": saved.step,
        "begun": group.step,
        "group_id": group.id,
        "problem_id": group.problem_id,
        "level": saved.level,
        "prompt": _text(tokenizer.decode(group.segments[0].ids)),
        "gold": saved.gold,
    }
    if not group.leaves:
        yield common | asdict(group.cost) | first
    for number, rollout in enumerate(group.rollouts):
        forward, critical = _row_lengths(group, rollout), critical_tokens(group, rollout)
        for leaf in (group.leaves[index] for index in rollout.leaves):
            end, outcome = group.segments[leaf.segment], saved.outcomes[leaf.id]
            own = {
                "rollout": number,
                "leaf": leaf.id,
                "segment": leaf.segment,
                "weight": leaf.weight,
                "response": _text(tokenizer.decode(group.response_ids(leaf))),
                "extracted": None if outcome.extracted is None else _text(outcome.extracted),
                "verdict": outcome.verdict,
                "tokens": group.trained_length(leaf),
                "stop": None if end.stop is None else str(end.stop),
                "reward": outcome.reward,
                "advantage": outcome.advantage,
                "policy_version": end.policy_version,
                "forward": forward[leaf.id],
                "critical": critical,
            }
            yield common | own | asdict(costs[leaf.id]) | first
            first = {}


def _group(rows: Sequence[Mapping[str, Any]]) -> SavedGroup:
    first = rows[0]
    with_leaf = [row for row in rows if row["leaf"] is not None]
    members: dict[int, list[int]] = {}
    for row in with_leaf:
        members.setdefault(row["rollout"], []).append(row["leaf"])
    by_leaf = sorted(with_leaf, key=lambda row: row["leaf"])
    group = Group(
        first["group_id"],
        first["problem_id"],
        load_segments(first["segments"]),
        tuple(Leaf(row["leaf"], row["segment"], row["weight"]) for row in by_leaf),
        tuple(Rollout(tuple(leaves)) for _, leaves in sorted(members.items())),
        first["begun"],
    )
    outcomes = (Outcome(row["verdict"], row["extracted"], row["reward"], row["advantage"]) for row in by_leaf)
    texts = tuple(tuple(segment["text"]) for segment in first["segments"])
    return SavedGroup(group, tuple(outcomes), texts, first["gold"], first["level"], first["step"])


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


def _row_lengths(group: Group, rollout: Rollout) -> dict[int, int]:
    """Leaf id -> tokens of its training row (``rows.py``), 0 where an earlier leaf has trained all of its path."""
    lengths: dict[int, int] = {}
    trained = 0
    for place, leaf in enumerate(rollout.leaves, start=1):
        before, trained = trained, group.trained_tokens(Rollout(rollout.leaves[:place]))
        lengths[leaf] = len(group.context_ids(group.leaves[leaf].segment)) if trained > before else 0
    return lengths


def _uncounted(group: Group, leaf: Leaf, counted: set[int]) -> list[Segment]:
    fresh = [segment for segment, _ in group.path(leaf.segment) if segment.id not in counted]
    counted.update(segment.id for segment in fresh)
    return fresh


def _text(text: str) -> str:
    """Parquet holds valid UTF-8 only; a lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
