"""Anytime rollouts: think once, then answer from every budget's prefix of the thought.

    thought  ──────b1──────────b2──────────b3────── </think>
                   │           │           │        └ answer x A          one sampled segment; a summary
                   │           │           └ ... </think> answer x A      branches off inside it
                   │           └ ... </think> answer x A
                   └ ... </think> answer x A

With budgets b_1 < ... < b_S and a thought of L tokens, budget s answers from the first ``min(b_s, L)`` tokens. A prefix
that is cut gets a forced end of thought and the answer header; a thought that ended by itself gets the header alone.
Budgets beyond L fall together on the whole thought, which is then answered once for each, so that a thought always has
S x A summaries. Leaf ``(trace * S + s) * A + a`` is summary a of budget s; ``budget_of`` and ``cuts`` say the rest.

Source: AnytimeReasoner, arXiv 2505.13438 (BRPO).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ..bounds import PerPrompt
from ..driver import CallSpec, check_least, shared
from ..engines.protocol import NoiseKey, Sampling
from ..noise import stream_key, uniforms
from ..records import Group, Kind, Leaf, Rollout, Segment, Stop
from .markers import marker_ids, stop_id

_PLACES = -1
"""Noise stream of the places of the budgets; those of calls count from 0."""


@dataclass(frozen=True)
class AnytimeDriver:
    """``group_size`` thoughts to each prompt, each answered ``summaries`` times from each of ``budgets`` prefixes."""

    name: ClassVar[str] = "anytime"
    flatten: ClassVar[Literal["path", "call"]] = "path"

    thinking_tokens: int = 0
    """The largest budget b_S; 0 takes all that ``max_completion`` leaves beside the answer. Published: 8000."""
    budgets: int = 4
    """S: budgets, evenly spaced up to ``thinking_tokens``."""
    summaries: int = 4
    """A: answers sampled from each budget's prefix."""
    summary_tokens: int = 118
    """Longest answer after a thought."""
    prior: Literal["uniform", "linear", "base"] = "uniform"
    """What budgets weigh: the same, in proportion to their tokens, or all on the largest one."""
    placement: Literal["grid", "sampled"] = "grid"
    """``grid``: b_s = s/S of the largest. ``sampled``: one draw for each group out of each of these intervals."""
    unit: Literal["trace", "summary"] = "trace"
    """What a rollout, and so an advantage, is: a thought with its summaries (what credit by budget needs), or each."""
    think_end_text: str = "</think>"
    """Ends a thought; one token."""
    cut_text: str = "...\n\n...\n\n</think>"
    """Forced after a thought that was cut; ends with ``think_end_text``."""
    header_text: str = "\n\n**Final Answer**\n"
    """Forced before every summary."""
    seed: int = 0
    """Of sampled placement; a group's budgets are a function of it and of the group's step and id."""
    think_end: tuple[int, ...] = shared(())
    cut: tuple[int, ...] = shared(())
    header: tuple[int, ...] = shared(())
    """Token ids of the three texts; ``with_tokenizer`` fills them in."""
    group_size: int = shared(8)
    """Thoughts for one prompt."""
    max_completion: int = shared(640)
    """Longest path in tokens: thought, forced tokens and answer."""
    sampling: Sampling = shared(Sampling())
    """Temperature, top-p and top-k of thoughts and summaries."""

    def __post_init__(self) -> None:
        check_least(self, budgets=1, summaries=1, summary_tokens=1, group_size=1, max_completion=1)
        inserted, largest = len(self.cut) + len(self.header), self.largest
        need = largest + inserted + self.summary_tokens
        if need > self.max_completion:
            raise ConfigError(
                f"a summary may end at {largest} thinking + {inserted} forced + {self.summary_tokens} answer = {need} "
                f"tokens but rollout.max_completion is {self.max_completion}; lower rollout.driver.thinking_tokens or "
                "summary_tokens, or raise rollout.max_completion"
            )
        if largest < self.budgets:
            raise ConfigError(
                f"rollout.driver.budgets is {self.budgets} but the largest budget is {largest} tokens, so that some "
                "would be empty; lower rollout.driver.budgets or raise thinking_tokens"
            )

    @property
    def largest(self) -> int:
        """b_S in tokens."""
        rest = self.max_completion - self.summary_tokens - len(self.cut) - len(self.header)
        return self.thinking_tokens or max(rest, 0)

    @property
    def per_prompt(self) -> PerPrompt:
        """Each thought has S x A summaries, all of which are decoded at once."""
        each = self.budgets * self.summaries
        rows = self.group_size * each
        tokens = self.group_size * (self.largest + each * self.summary_tokens)
        return PerPrompt(self.group_size if self.unit == "trace" else rows, rows, live=rows, decoded=tokens)

    def with_tokenizer(self, tokenizer: Any) -> Self:
        """The driver with its markers as token ids. Raises ``ConfigError`` for markers that cannot work."""
        end = stop_id(tokenizer, self.think_end_text, "rollout.driver.think_end_text")
        cut = marker_ids(tokenizer, self.cut_text, "rollout.driver.cut_text")
        header = marker_ids(tokenizer, self.header_text, "rollout.driver.header_text")
        if cut.count(end) != 1 or cut[-1] != end or end in header:
            raise ConfigError(
                f"rollout.driver.cut_text {self.cut_text!r} must end with {self.think_end_text!r} and hold it once, "
                f"and header_text {self.header_text!r} not at all: an answer counts after one end of thought only"
            )
        return replace(self, think_end=(end,), cut=cut, header=header)

    def budgets_of(self, group: Group) -> tuple[int, ...]:
        """b_1 < ... < b_S of a group, in thinking tokens; the same for all its thoughts."""
        edge = [self.largest * s // self.budgets for s in range(self.budgets + 1)]
        if self.placement == "grid":
            return tuple(edge[1:])
        key = stream_key(NoiseKey(self.seed, group.step, group.id, _PLACES))
        places = uniforms(key, np.arange(self.budgets)).tolist()
        return tuple(low + 1 + int(u * (high - low)) for low, high, u in zip(edge, edge[1:], places, strict=False))

    def prior_of(self, group: Group) -> NDArray[np.float64]:
        """P_1 ... P_S, which sum to 1, shape (S,)."""
        tokens = np.array(self.budgets_of(group), np.float64)
        weight = {"uniform": np.ones_like(tokens), "linear": tokens, "base": (tokens == tokens[-1]).astype(np.float64)}
        return weight[self.prior] / weight[self.prior].sum()

    def cuts(self, group: Group, thought: int) -> tuple[int, ...]:
        """Tokens of a thought that each budget sees; ``thought`` is the id of its (last) segment."""
        length = len(group.context_ids(thought)) - len(group.segments[0])
        return tuple(min(budget, length) for budget in self.budgets_of(group))

    def budget_of(self, leaf: Leaf) -> tuple[int, int, int]:
        """(trace, budget, summary) of a leaf, each counted from 0."""
        slot, summary = divmod(leaf.id, self.summaries)
        return (*divmod(slot, self.budgets), summary)

    def start(self, group: Group) -> list[CallSpec]:
        """One call per thought, up to the end of thought or the largest budget."""
        if not self.think_end:
            raise ConfigError("rollout.driver anytime has no token for its end of thought; call with_tokenizer first")
        end, longest = len(group.segments[0]), self.budgets_of(group)[-1]
        return [
            CallSpec(0, end, longest, trace, self.sampling, stop_ids=self.think_end, at_limit=Stop.BUDGET)
            for trace in range(self.group_size)
        ]

    def on_segment(self, group: Group, segment: Segment) -> list[CallSpec]:
        """All summaries of a thought as soon as it is closed."""
        if segment.id > self.group_size or segment.stop is Stop.ABORTED:
            return []
        slots = self.budgets * self.summaries
        first = self.group_size + (segment.id - 1) * slots
        by_itself = segment.stop in (Stop.STOP_TOKEN, Stop.EOS)
        specs = []
        for budget, kept in enumerate(self.cuts(group, segment.id)):
            cut = () if by_itself and kept == len(segment) else self.cut
            forced = np.array((*cut, *self.header), np.int32)
            for leaf in range(first + budget * self.summaries, first + (budget + 1) * self.summaries):
                specs.append(CallSpec(segment.id, kept, self.summary_tokens, leaf, self.sampling, forced=forced))
        return specs

    def finish(self, group: Group) -> Group:
        """A leaf for each summary, in the order of traces and budgets, its weight P_s / (A * traces)."""
        summaries: dict[int, list[int]] = {}
        for segment in group.segments[self.group_size + 1 :]:
            if segment.kind is Kind.SAMPLED and segment.stop is not Stop.ABORTED:
                summaries.setdefault(self._thought(group, segment), []).append(segment.id)
        slots = self.budgets * self.summaries
        whole = [ids for _, ids in sorted(summaries.items()) if len(ids) == slots]
        weight_S = self.prior_of(group) / (self.summaries * max(len(whole), 1))
        leaves = tuple(
            Leaf(trace * slots + slot, segment, float(weight_S[slot // self.summaries]))
            for trace, ids in enumerate(whole)
            for slot, segment in enumerate(ids)
        )
        size = slots if self.unit == "trace" else 1
        rollouts = tuple(Rollout(tuple(range(at, at + size))) for at in range(0, len(leaves), size))
        return group.replace(leaves=leaves, rollouts=rollouts)

    def _thought(self, group: Group, segment: Segment) -> int:
        return group.path(segment.id)[1][0].id
