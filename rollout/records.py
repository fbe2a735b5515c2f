"""What a rollout is: segments that form a tree, the leaves that are its answers, the rollouts that share an advantage.

    Group (one prompt)
      segments   prompt ── sampled ── sampled ...      every token decoded once, in exactly one segment
      leaves     a deliverable answer at the end of a path
      rollouts   the leaves that share one advantage; a flat sample is a rollout of one leaf

Flat sampling is a tree of depth one. Other drivers (trees, chunks, threads, budgets) use the same records, and the
trainer knows nothing else. Invariants: ``Group.validate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
"""Token ids, shape (T,)."""
Logps = NDArray[np.float32]
"""Behaviour log-probs in nats, shape (T,): log-prob of the token under the distribution it was sampled from."""


class Kind(StrEnum):
    """Where the tokens of a segment come from. Only ``SAMPLED`` tokens are trained."""

    PROMPT = "prompt"
    SAMPLED = "sampled"
    FORCED = "forced"
    """Inserted by a driver: an end-of-thought marker, a header, "Wait"."""
    CONTEXT_COPY = "context_copy"
    """Text of other segments, sent again: carry-overs and joins."""
    PROBE = "probe"
    """Decoded to look, never trained."""


class Stop(StrEnum):
    """Why a segment ended; each value is also a metric."""

    EOS = "eos"
    STOP_TOKEN = "stop_token"
    LENGTH = "length"
    """The completion cap."""
    BUDGET = "budget"
    """A driver's own limit: end of a segment, chunk or thinking budget."""
    REPETITION = "repetition"
    OUTLIER_CUT = "outlier_cut"
    """Cut after the fact by Dynamic Outlier Truncation."""
    REJECTED = "rejected"
    JOINED = "joined"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a segment cost the engine, in tokens."""

    decoded: int = 0
    """T_dec: tokens decoded, discarded ones included."""
    prefilled: int = 0
    """T_pre: context tokens that were not found in a cache."""
    cached: int = 0
    """Context tokens that were."""
    kv_read: int = 0
    """T_kv: KV tokens read while decoding, sum over decode steps of the context length."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.decoded + other.decoded,
            self.prefilled + other.prefilled,
            self.cached + other.cached,
            self.kv_read + other.kv_read,
        )


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a stretch of a ``CONTEXT_COPY`` came from: tokens ``start:stop`` of another segment."""

    segment: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens decoded or inserted in one go; immutable once closed."""

    id: int
    """Unique in the group and equal to its index in ``Group.segments``."""
    parent: int | None
    """The segment this one continues; None for the prompt."""
    parent_off: int
    """How many of the parent's tokens are kept; a late split has ``parent_off < len(parent)``."""
    kind: Kind
    ids: Ids
    logp: Logps
    """NaN where a token was not sampled."""
    stop: Stop | None = None
    origin: tuple[Origin, ...] = ()
    policy_version: int = 0
    """Of the policy that decoded it, or its end where a call was parked."""
    cost: Cost = Cost()
    earlier: tuple[tuple[int, int], ...] = ()
    """(policy version, tokens) of the stretches before the end of a call that was parked, first to last; else empty."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def version_T(self) -> NDArray[np.int64]:
        """Version of the policy that decoded each token, shape (T,)."""
        if not self.earlier:
            return np.full(len(self), self.policy_version, np.int64)
        versions, tokens = zip(*self.earlier, (self.policy_version, len(self) - self.parked_tokens), strict=True)
        return np.repeat(np.array(versions, np.int64), np.array(tokens, np.int64))

    @property
    def parked_tokens(self) -> int:
        """Tokens that older policies decoded."""
        return sum(tokens for _, tokens in self.earlier)

    def with_versions(self, version_T: NDArray[np.int64]) -> Segment:
        """A copy whose tokens are of these policy versions, which only rise; shape (T,)."""
        if not len(version_T):
            return replace(self, earlier=())
        versions, starts = np.unique(version_T, return_index=True)
        tokens = np.diff(np.append(starts, len(version_T)))
        earlier = tuple(zip(versions[:-1].tolist(), tokens[:-1].tolist(), strict=True))
        return replace(self, policy_version=int(versions[-1]), earlier=earlier)


def path(segments: Sequence[Segment], segment: int) -> list[tuple[Segment, int]]:
    """``(segment, tokens kept of it)`` from the prompt to ``segment``, whole."""
    current = segments[segment]
    kept = len(current)
    pieces = [(current, kept)]
    while current.parent is not None:
        kept, current = current.parent_off, segments[current.parent]
        pieces.append((current, kept))
    return pieces[::-1]


def context_ids(segments: Sequence[Segment], segment: int) -> Ids:
    """Every token on the path up to and including ``segment``, shape (T,)."""
    return np.concatenate([piece.ids[:kept] for piece, kept in path(segments, segment)])


@dataclass(frozen=True, slots=True)
class Leaf:
    """A deliverable answer: the path from the prompt to the end of ``segment``."""

    id: int
    """Equal to its index in ``Group.leaves``."""
    segment: int
    weight: float = 1.0
    """Branching weight (product of 1 / children along the path), or 1."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """The leaves that share one advantage."""

    leaves: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """One prompt and all that was sampled for it. Group sizes may differ."""

    id: int
    """``group_id``: unique within a training step."""
    problem_id: str
    segments: tuple[Segment, ...]
    leaves: tuple[Leaf, ...] = ()
    rollouts: tuple[Rollout, ...] = field(default=())
    step: int = 0
    """Training step in which it was begun; with ``id`` it names the random numbers of the group."""

    def path(self, segment: int) -> list[tuple[Segment, int]]:
        """``(segment, tokens kept of it)`` from the prompt to ``segment``, whole."""
        return path(self.segments, segment)

    def context_ids(self, segment: int) -> Ids:
        """Every token on the path up to and including ``segment``, shape (T,)."""
        return context_ids(self.segments, segment)

    def response_ids(self, leaf: Leaf) -> Ids:
        """The leaf's path without the prompt, shape (T,)."""
        return np.concatenate([np.empty(0, np.int32), *(p.ids[:k] for p, k in self.path(leaf.segment)[1:])])

    def trained_length(self, leaf: Leaf) -> int:
        """Sampled tokens on the leaf's path: the length that rewards, penalties and logs mean."""
        return sum(kept for piece, kept in self.path(leaf.segment) if piece.kind is Kind.SAMPLED)

    def trained_tokens(self, rollout: Rollout) -> int:
        """Sampled tokens above any leaf of the rollout, each counted once: its length for rewards and normalizers."""
        return sum(self.trained(rollout).values())

    def trained(self, rollout: Rollout) -> dict[int, int]:
        """Sampled segment -> how many of its tokens are above any leaf of the rollout."""
        kept: dict[int, int] = {}
        for leaf in rollout.leaves:
            for segment, count in self.path(self.leaves[leaf].segment):
                if segment.kind is Kind.SAMPLED:
                    kept[segment.id] = max(count, kept.get(segment.id, 0))
        return kept

    def truncated(self, leaf: Leaf) -> bool:
        """Whether the leaf ran into the completion cap."""
        return self.segments[leaf.segment].stop is Stop.LENGTH

    @property
    def cost(self) -> Cost:
        """Sum over all segments, those without a leaf included."""
        return sum((segment.cost for segment in self.segments), Cost())

    def replace(self, **changes: object) -> Group:
        """A copy with fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def validate(self) -> None:
        """Raise ``ValueError`` naming the first invariant that does not hold."""
        for index, segment in enumerate(self.segments):
            where = f"group {self.id}, segment {index}"
            if segment.id != index:
                raise ValueError(f"{where}: id {segment.id} differs from its index")
            if (segment.kind is Kind.PROMPT) != (index == 0) or (segment.parent is None) != (index == 0):
                raise ValueError(f"{where}: exactly the first segment is the prompt and has no parent")
            if segment.parent is not None:
                if not 0 <= segment.parent < index:
                    raise ValueError(f"{where}: parent {segment.parent} does not precede it")
                if not 0 <= segment.parent_off <= len(self.segments[segment.parent]):
                    raise ValueError(f"{where}: parent_off {segment.parent_off} exceeds the parent's length")
            if segment.logp.shape != segment.ids.shape:
                raise ValueError(f"{where}: {len(segment.ids)} ids but {len(segment.logp)} log-probs")
            finite = np.isfinite(segment.logp)
            if not (finite.all() if segment.kind is Kind.SAMPLED else not finite.any()):
                raise ValueError(f"{where}: log-probs are finite exactly on sampled tokens")
            versions = [*(version for version, _ in segment.earlier), segment.policy_version]
            rising = all(old < new for old, new in pairwise(versions))
            if not rising or any(tokens < 1 for _, tokens in segment.earlier) or segment.parked_tokens > len(segment):
                raise ValueError(f"{where}: stretches of older policies {segment.earlier} must rise and lie within it")
            if segment.kind is Kind.CONTEXT_COPY:
                source = [self.segments[o.segment].ids[o.start : o.stop] for o in segment.origin]
                if not source or not np.array_equal(np.concatenate(source), segment.ids):
                    raise ValueError(f"{where}: a context copy must equal the tokens of its origins")
        for index, leaf in enumerate(self.leaves):
            if leaf.id != index or not 0 <= leaf.segment < len(self.segments):
                raise ValueError(f"group {self.id}, leaf {index}: bad id {leaf.id} or segment {leaf.segment}")
        counted = sorted(leaf for rollout in self.rollouts for leaf in rollout.leaves)
        if counted != list(range(len(self.leaves))):
            raise ValueError(f"group {self.id}: every leaf belongs to exactly one rollout, got {counted}")


def prompt_group(id: int, problem_id: str, prompt_ids: Sequence[int] | Ids) -> Group:
    """A group that holds only its prompt: what a driver starts from."""
    ids = np.asarray(prompt_ids, np.int32)
    prompt = Segment(0, None, 0, Kind.PROMPT, ids, np.full(len(ids), np.nan, np.float32))
    return Group(id, problem_id, (prompt,))
