"""InftyThink: think in rounds, each of which sees only the summary that the one before it ended with.

    prompt ── thought ── <summary> s1 </summary>
    prompt ── <history> s1 </history> ── thought ── <summary> s2 </summary>
    prompt ── <history> s2 </history> ── thought ── answer

A round stops at the token that closes a summary and is then followed by another; one that ends by itself (EOS) holds
the answer. The carry differs from Delethink's in that the model writes it: a summary is trained where it was sampled
and is context where it is copied. A trajectory that never answers (its last round ends on a summary, or on one that it
did not open) counts as truncated. All rounds of a trajectory share one advantage.

Sources: InftyThink, arXiv 2503.06692; its training by reinforcement learning, arXiv 2602.06960.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np

from ...errors import ConfigError
from ..bounds import PerPrompt
from ..driver import CallSpec, check_least, shared
from ..engines.protocol import Sampling
from ..records import Group, Origin, Segment, Stop
from .markers import marker_ids, stop_id
from .rounds import one_rollout_per_trajectory, rounds_of, stretch


@dataclass(frozen=True)
class SummaryDriver:
    """``group_size`` trajectories to each prompt, of rounds joined by summaries."""

    name: ClassVar[str] = "summary"
    flatten: ClassVar[Literal["path", "call"]] = "call"

    round_tokens: int = 4096
    """Most tokens of a round: its thought and its summary or answer. One that reaches it ends the trajectory."""
    max_rounds: int = 6
    """Most rounds of a trajectory; 1 samples flat answers that stop at a summary."""
    summary_open_text: str = "<summary>"
    """Opens a summary in what the model writes."""
    summary_close_text: str = "</summary>"
    """Closes it and ends the round; one token."""
    history_open_text: str = "<history>"
    """Forced before the summary of the last round."""
    history_close_text: str = "</history>"
    """Forced after it."""
    summary_open: tuple[int, ...] = shared(())
    summary_close: tuple[int, ...] = shared(())
    history_open: tuple[int, ...] = shared(())
    history_close: tuple[int, ...] = shared(())
    """Token ids of the four texts; ``with_tokenizer`` fills them in."""
    group_size: int = shared(8)
    """Trajectories for one prompt."""
    max_completion: int = shared(24576)
    """Longest trajectory in decoded tokens, over all its rounds."""
    sampling: Sampling = shared(Sampling())
    """Temperature, top-p and top-k of every round."""

    def __post_init__(self) -> None:
        check_least(self, round_tokens=1, max_rounds=1, group_size=1, max_completion=1)
        longest = self.max_rounds * self.round_tokens
        if longest > self.max_completion:
            raise ConfigError(
                f"{self.max_rounds} rounds of {self.round_tokens} tokens are {longest} but rollout.max_completion is "
                f"{self.max_completion}; lower rollout.driver.round_tokens to {self.max_completion // self.max_rounds} "
                "or max_rounds, or raise rollout.max_completion"
            )
        marks = len(self.summary_open) + len(self.summary_close)
        if self.round_tokens <= marks:
            raise ConfigError(
                f"a round of {self.round_tokens} tokens has no room beside the {len(self.summary_open)} + "
                f"{len(self.summary_close)} = {marks} that mark its summary; raise rollout.driver.round_tokens"
            )

    @property
    def longest_context(self) -> int:
        """Most tokens after the prompt that a call ever holds: a summary that fills its round, and a round.

        Before ``with_tokenizer`` an upper bound: no tokenizer makes more tokens of a text than it has bytes, and one
        for a space before it; and the marks of a summary are one token each at least.
        """
        if self.max_rounds == 1:
            return self.round_tokens
        marks = len(self.summary_open) + len(self.summary_close)
        history = len(self.history_open) + len(self.history_close)
        if not marks:
            marks = 2
            history = sum(len(text.encode()) + 1 for text in (self.history_open_text, self.history_close_text) if text)
        return history + self.round_tokens - marks + self.round_tokens

    @property
    def per_prompt(self) -> PerPrompt:
        """Each round is a row; those of a trajectory follow one another."""
        rows = self.group_size * self.max_rounds
        return PerPrompt(self.group_size, rows, live=self.group_size, decoded=rows * self.round_tokens)

    def with_tokenizer(self, tokenizer: Any) -> Self:
        """The driver with its markers as token ids. Raises ``ConfigError`` for markers that cannot work."""
        texts = ("summary_open", "history_open", "history_close")
        ids: dict[str, Any] = {
            key: marker_ids(tokenizer, getattr(self, f"{key}_text"), f"rollout.driver.{key}_text") for key in texts
        }
        close = stop_id(tokenizer, self.summary_close_text, "rollout.driver.summary_close_text")
        if not ids["summary_open"] or close in ids["summary_open"]:
            raise ConfigError(
                f"rollout.driver.summary_open_text is {self.summary_open_text!r} but must be there and not hold "
                f"{self.summary_close_text!r}, or no summary has a beginning; choose other text"
            )
        return replace(self, summary_close=(close,), **ids)

    def start(self, group: Group) -> list[CallSpec]:
        """The first round of every trajectory."""
        if not self.summary_close or not self.summary_open:
            raise ConfigError("rollout.driver summary has no tokens for its markers; call with_tokenizer first")
        return [self._round(group, index * self.max_rounds) for index in range(self.group_size)]

    def on_segment(self, group: Group, segment: Segment) -> list[CallSpec]:
        """The next round, if this one ended with a summary and was not the last."""
        if segment.stop is not Stop.STOP_TOKEN:
            return []
        rounds = rounds_of(group, segment.id)
        summary = self._summary(group, rounds[-1])
        if summary is None or len(rounds) >= self.max_rounds:
            return []
        return [self._round(group, (rounds[0][0][0] - 1) * self.max_rounds + len(rounds), summary)]

    def finish(self, group: Group) -> Group:
        """A leaf for every round, a rollout for every trajectory; one without an answer ran into its limit."""
        group = one_rollout_per_trajectory(group)
        last = {group.leaves[rollout.leaves[-1]].segment for rollout in group.rollouts}
        return group.replace(
            segments=tuple(
                replace(segment, stop=Stop.LENGTH)
                if segment.id in last and segment.stop is Stop.STOP_TOKEN
                else segment
                for segment in group.segments
            )
        )

    def _round(self, group: Group, leaf: int, summary: tuple[Origin, ...] = ()) -> CallSpec:
        opened, closed = (np.array(ids, np.int32) for ids in (self.history_open, self.history_close))
        return CallSpec(
            parent=0,
            parent_off=len(group.segments[0]),
            max_tokens=self.round_tokens,
            leaf=leaf,
            sampling=self.sampling,
            stop_ids=self.summary_close,
            copies=(opened, *summary, closed) if summary else (),
            keep=len(group.segments[0]) + len(self.history_open),
        )

    def _summary(self, group: Group, pieces: list[tuple[int, int]]) -> tuple[Origin, ...] | None:
        """Where the summary that ends a round is, without its marks; None if it was never opened."""
        ids = np.concatenate([group.segments[segment].ids[:kept] for segment, kept in pieces]).tolist()
        width, end = len(self.summary_open), len(ids) - 1
        for start in range(end, width - 1, -1):
            if tuple(ids[start - width : start]) == self.summary_open:
                return stretch(pieces, start, end)
        return None
