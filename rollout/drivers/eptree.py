"""Late splits: sample whole answers, then sample again from where they were surprising.

    prompt ─┬─ answer 1 ──────x──────x─────── eos       x: the N tokens of a tree with the largest -log p
            │                 ├─ ... ├─ ...             T new continuations of the prefix without that token
            │                 └─ ... └─ ...
            └─ answer 2 ... the same                    M trees for each prompt, L rounds

-log p is the surprisal of the token that was sampled, not the entropy of its distribution. A round pools the tokens of
all segments of a tree; each tree goes on as soon as its own calls are closed. No split: at the first token of a branch,
whose place was split already; after the token with which a word such as "answer" begins, wherever it is on the path.
A prompt has M * (1 + N * L * T) leaves, fewer where a tree has too few tokens to split at.

Splits stand where sampling went astray, so answers below them are no fair sample of the policy: they weigh 0, and the M
whole answers 1 / M each. The weighted mean score is unbiased; the plain mean over leaves is not.

Source: EPTree of TreeRL, arXiv 2506.11902, and its code (THUDM/TreeRL).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ..bounds import PerPrompt
from ..driver import CallSpec, check_least, shared
from ..engines.protocol import Sampling
from ..records import Group, Leaf, Rollout, Segment, Stop
from .tree_paths import branching_weights, response_length

Place = tuple[int, int]
"""A split: (segment, tokens kept of it)."""


@dataclass(frozen=True)
class EPTreeDriver:
    """``group_size`` whole answers to each prompt, each split at its most surprising tokens."""

    name: ClassVar[str] = "eptree"
    flatten: ClassVar[Literal["path", "call"]] = "path"

    splits: int = 2
    """N: tokens split at for each whole answer and round."""
    rounds: int = 1
    """L: rounds of splitting, one after another."""
    branches: int = 2
    """T: new continuations at a split."""
    closing_words: tuple[str, ...] = ("conclusion", "answer")
    """No split after one of these, in any case of letters; they announce the answer."""
    group_size: int = shared(6)
    """M: whole answers to one prompt; leaves are ``group_size * (1 + splits * rounds * branches)``."""
    max_completion: int = shared(640)
    """Longest answer in tokens, prefix included."""
    sampling: Sampling = shared(Sampling())
    """Temperature, top-p and top-k of answers and branches. Published: 1.2 and 0.95."""
    piece: Callable[[int], str] | None = shared(None)
    """Text of a token in small letters; ``with_tokenizer`` fills it in."""

    def __post_init__(self) -> None:
        check_least(self, splits=1, rounds=1, branches=1, group_size=1, max_completion=1)
        if self.splits > self.max_completion:
            raise ConfigError(
                f"rollout.driver.splits is {self.splits} but an answer has at most rollout.max_completion = "
                f"{self.max_completion} tokens to split at; lower it (a prompt would have {self.group_size} * (1 + "
                f"{self.splits} * {self.rounds} * {self.branches}) = {self.most_leaves} leaves)"
            )
        if "" in self.closing_words:
            raise ConfigError("rollout.driver.closing_words holds an empty word, so that no token could be split at")

    @property
    def most_leaves(self) -> int:
        """Leaves of a prompt whose trees all have tokens to split at."""
        return self.group_size * (1 + self.splits * self.rounds * self.branches)

    @property
    def per_prompt(self) -> PerPrompt:
        """A branch decodes all that a path may have, less what it keeps: nothing at one split of a round only."""
        trees, leaves, longest = self.group_size, self.most_leaves, self.max_completion
        branched = self.rounds * self.branches * (self.splits * longest - (self.splits - 1))
        live = trees * max(1, self.splits * self.branches)
        return PerPrompt(rollouts=leaves, rows=leaves, live=live, decoded=trees * (longest + branched))

    def with_tokenizer(self, tokenizer: Any) -> Self:
        """The driver with the text of tokens, which the closing words need."""
        return replace(self, piece=cache(lambda token: tokenizer.decode([token]).lower()))

    def start(self, group: Group) -> list[CallSpec]:
        """The whole answers."""
        if self.closing_words and self.piece is None:
            raise ConfigError(
                "rollout.driver eptree looks for its closing_words but has no tokenizer; call with_tokenizer first, or "
                "set closing_words: []"
            )
        return [self._call(group, (0, len(group.segments[0])), leaf) for leaf in range(self.group_size)]

    def on_segment(self, group: Group, segment: Segment) -> list[CallSpec]:
        """The next round of a tree once the last call of this one is closed. An aborted call ends the tree's growth."""
        number = self._tree_of(group, segment)
        tree = [s for s in group.segments[1:] if self._tree_of(group, s) == number]
        if any(s.stop in (None, Stop.ABORTED) for s in tree):
            return []
        grown, done = 1, 0
        while grown < len(tree) and done < self.rounds:
            grown, done = grown + self.branches * len(self.places(group, tree[:grown])), done + 1
        if done == self.rounds:
            return []
        first = self.group_size + (number * self.rounds + done) * self.splits * self.branches
        places = [place for place in self.places(group, tree) for _ in range(self.branches)]
        return [self._call(group, place, first + index) for index, place in enumerate(places)]

    def finish(self, group: Group) -> Group:
        """A leaf and a rollout of its own for each answer, tree by tree."""
        ended = [s for s in group.segments[1:] if s.stop not in (None, Stop.ABORTED)]
        leaves = [s.id for s in sorted(ended, key=lambda s: (self._tree_of(group, s), s.id))]
        weights = branching_weights(group, leaves, 1 + self.group_size)
        return group.replace(
            leaves=tuple(Leaf(i, end, weight) for i, (end, weight) in enumerate(zip(leaves, weights, strict=True))),
            rollouts=tuple(Rollout((index,)) for index in range(len(leaves))),
        )

    def places(self, group: Group, tree: Sequence[Segment]) -> list[Place]:
        """The splits of a round: the most surprising tokens of a tree, ties to the earlier segment and token."""
        found = [(-float(s.logp[at]), s.id, at) for s in tree for at in np.flatnonzero(self._open(group, s)).tolist()]
        found.sort(key=lambda one: (-one[0], *one[1:]))
        return [(segment, at) for _, segment, at in found[: self.splits]]

    def _open(self, group: Group, segment: Segment) -> NDArray[np.bool_]:
        """Which tokens of a segment may be split at, (T,)."""
        at_T = np.arange(len(segment))
        last = len(segment)
        if self.piece is not None and self.closing_words:
            ids = group.context_ids(segment.id)[len(group.segments[0]) :].tolist()
            pieces = [self.piece(token) for token in ids]
            text, ends = "".join(pieces), list(accumulate(map(len, pieces)))
            begins = [begin for word in self.closing_words if (begin := text.find(word.lower())) >= 0]
            if begins:
                closing = int(np.searchsorted(ends, min(begins), side="right"))
                last = closing - (len(ids) - len(segment))
        return (at_T <= last) & ((at_T > 0) | (segment.parent == 0))

    def _call(self, group: Group, place: Place, leaf: int) -> CallSpec:
        tokens = self.max_completion - response_length(group, *place)
        return CallSpec(*place, tokens, leaf, self.sampling)

    def _tree_of(self, group: Group, segment: Segment) -> int:
        return group.path(segment.id)[1][0].id - 1
