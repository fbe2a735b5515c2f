"""Settings of the segment tree, and what cannot work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...errors import ConfigError
from ..bounds import PerPrompt
from ..driver import check_least, shared
from ..engines.protocol import Sampling
from .tree_fallback import Cut, Pick
from .tree_width import widest


@dataclass(frozen=True)
class TreeSettings:
    """Settings of ``TreePODriver``."""

    width: int = 2
    """w: paths of the first level, and branches of a live path as long as answers are missing."""
    depth: int = 6
    """Levels of segments. Published: 6, and 14 in the 7B run."""
    segment_tokens: int = 0
    """Longest segment; 0 divides ``max_completion`` by ``depth``. Published: 512."""
    first_width: tuple[int, int] = (0, 0)
    """Paths of the first level, drawn for each group between these two, if the second exceeds ``width``."""
    random_width: tuple[int, int] = (0, 0)
    """Draws ``width`` for each group and level between these two; (0, 0) does not."""
    level_tokens: int = 0
    """Tokens of one level of a group; sets its branches in place of ``width``; 0 does not."""
    token_budget: int = 0
    """Tokens of all answers of a group, roughly; makes their number vary; 0 sets none."""
    least_answers: int = 1
    """Answers that ``token_budget`` leaves in any case."""
    divergence: Literal[
        "fixed_avg",
        "logprob_weighted_div",
        "inverse_logprob_weighted_div",
        "norm_logprob_weighted_div",
        "norm_inv_logprob_weighted_div",
        "node_logprob_weighted_div",
        "inverse_node_logprob_weighted_div",
    ] = "fixed_avg"
    """Who gets the branches: all the same; or by the path's log-prob (its sum, mean, or mean over the last segment),
    the less likely path more, with ``inv`` the likelier one."""
    divergence_temperature: float = 1.0
    """Of the softmax over log-probs."""
    answer: Literal["eos", "boxed_as_eos", "boxed_and_eos_first"] = "boxed_and_eos_first"
    """What ends an answer: the end of text; or a boxed formula as well. The last only marks answers for fallback."""
    repetition: Literal["off", "last", "first"] = "last"
    """Whether looping text ends it; looked for before or after all else (published: ``first``, but ``last`` ran)."""
    min_answer: int = 0
    """Shorter answers are dropped: decoded, but no leaf."""
    fallback: Cut | Literal["no_fallback"] = "random"
    """Where finished answers are cut when none lives and some are missing; ``no_fallback`` leaves groups smaller."""
    fallback_from: Pick = "soft_boxed_and_eos"
    """Which answers are cut; see ``tree_fallback.py``."""
    fallback_window: int = 0
    """Tokens of a window; shorter answers are redone from the prompt; 0 takes a segment's."""
    fallback_windows: int = 0
    """Most windows that ``random`` goes back; 0 sets no bound."""
    fallback_least: int = 1
    """Windows that ``boxed_ge_window`` asks for."""
    fallback_block: int = 128
    """Tokens of a block of ``block`` and ``inverse_block``."""
    seed: int = 0
    """Of the driver's own draws, which are a function of it and of the group's step and id."""
    group_size: int = shared(8)
    """W: answers to one prompt."""
    max_completion: int = shared(640)
    """Longest answer in tokens."""
    sampling: Sampling = shared(Sampling())
    """Temperature, top-p and top-k of every segment."""
    decode: Callable[[Sequence[int]], str] | None = shared(None)
    """Text of a path; ``with_tokenizer`` fills it in."""

    def __post_init__(self) -> None:
        check_least(self, width=1, depth=1, group_size=1, max_completion=1, least_answers=1, fallback_least=1)
        check_least(self, segment_tokens=0, level_tokens=0, token_budget=0, min_answer=0, fallback_window=0)
        check_least(self, fallback_windows=0, fallback_block=1)
        if not self.divergence_temperature > 0:
            raise ConfigError(
                f"rollout.driver.divergence_temperature is {self.divergence_temperature} but must exceed 0; raise it"
            )
        for key in ("first_width", "random_width"):
            low, high = getattr(self, key)
            if (low, high) != (0, 0) and not 1 <= low <= high:
                raise ConfigError(
                    f"rollout.driver.{key} is [{low}, {high}] but must be [least, most] with 1 <= least <= most"
                )
        self._check_tokens()
        self._check_reach()

    @property
    def segment(self) -> int:
        """s: tokens of a segment."""
        return self.segment_tokens or -(-self.max_completion // self.depth)

    @property
    def window(self) -> int:
        """f: tokens of a fallback window."""
        return self.fallback_window or self.segment

    @property
    def per_prompt(self) -> PerPrompt:
        """Without fallback what the widest tree has; with it each answer may have been decoded on its own.

        Dropped answers end within the first levels. They are rows where no other is left.
        """
        s, longest = self.segment, min(self.depth * self.segment, self.max_completion)
        short = -(-(self.min_answer - 1) // s) if self.min_answer > 1 else 0
        dropped = (short + 1) * self.group_size - 1 if short else 0
        tokens = self.group_size * longest + dropped * (self.min_answer - 1)
        if self.fallback == "no_fallback":
            most = self.level_tokens // s or self.random_width[1] or self.width
            first = self.first_width[1] if self.first_width[1] > self.width else most
            widths = widest(first, most, self.group_size, self.depth, fixed=bool(self.level_tokens))
            tokens = sum(n * max(min(s, longest - level * s), 0) for level, n in enumerate(widths))
        rows = max(self.group_size, dropped)
        return PerPrompt(rows, rows, live=self.group_size, decoded=tokens)

    @property
    def looks_for_boxes(self) -> bool:
        """Text is read only where it matters: a box ends a path, or fallback prefers answers that have one."""
        labels = self.fallback_from in ("finished_first", "finished_first_strict", "boxed_ge_window")
        return self.answer == "boxed_as_eos" or (self.answer != "eos" and labels)

    def check_decode(self) -> None:
        """Raise ``ConfigError`` if a rule needs text and there is none."""
        if self.decode is None and (self.looks_for_boxes or self.repetition != "off"):
            raise ConfigError(
                "rollout.driver treepo reads text for its settings answer and repetition but has no tokenizer; call "
                "with_tokenizer first, or set answer: eos and repetition: off"
            )

    def branches(self, rng: Callable[[], np.random.Generator]) -> int:
        """w of one level, or of one answer that is fallen back to; ``rng`` is asked for only where w is drawn."""
        if self.level_tokens:
            return self.level_tokens // self.segment
        low, high = self.random_width
        return int(rng().integers(low, high + 1)) if high else self.width

    def _check_tokens(self) -> None:
        s, cap = self.segment, self.max_completion
        if self.segment_tokens and self.depth * s > cap:
            raise ConfigError(
                f"{self.depth} levels of {s} tokens = {self.depth * s} tokens, but rollout.max_completion is {cap}; "
                f"lower rollout.driver.depth to {cap // s}, or segment_tokens to {cap // self.depth}, or raise "
                "rollout.max_completion"
            )
        for key in ("level_tokens", "token_budget"):
            if 0 < getattr(self, key) < s:
                raise ConfigError(
                    f"rollout.driver.{key} is {getattr(self, key)} but one segment has {s} tokens; raise it"
                )
        if self.min_answer >= cap:
            raise ConfigError(
                f"rollout.driver.min_answer is {self.min_answer} but rollout.max_completion is {cap}: no answer "
                "could stay; lower it"
            )
        if self.least_answers > self.group_size:
            raise ConfigError(
                f"rollout.driver.least_answers is {self.least_answers} but rollout.group_size is {self.group_size}; "
                "lower it"
            )

    def _check_reach(self) -> None:
        """Branching alone must be able to reach all answers: else most of them would start again from the prompt."""
        if self.level_tokens:
            return
        most = max(self.width, self.random_width[1])
        widths = [min(max(most, self.first_width[1]), self.group_size)]
        while most > 1 and widths[-1] < self.group_size:
            widths.append(min(widths[-1] * most, self.group_size))
        if widths[-1] < self.group_size:
            raise ConfigError(
                f"rollout.driver.width is 1: a tree has {widths[0]} answers of rollout.group_size {self.group_size}; "
                "raise rollout.driver.width to 2, or lower rollout.group_size"
            )
        if len(widths) > self.depth:
            raise ConfigError(
                f"{self.group_size} answers take widths {', '.join(map(str, widths))}: {len(widths)} levels x "
                f"{self.segment} tokens = {len(widths) * self.segment} tokens, but rollout.driver.depth is "
                f"{self.depth} and rollout.max_completion is {self.max_completion}; raise rollout.driver.width or "
                "depth, or lower segment_tokens or rollout.group_size"
            )
