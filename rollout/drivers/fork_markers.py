"""The markers of fork and join: their texts, and the token ids they become."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from ..driver import shared
from ..records import Ids
from .markers import marker_ids, stop_id

_LABEL = frozenset("0123456789: \n\tĠĊĉ▁")
"""What numbers, white space and colons look like in vocabularies, byte-level and sentencepiece ones included."""


@dataclass(frozen=True, kw_only=True)
class ForkMarkers:
    """Texts of the markers, ThreadWeaver's by default; ``with_tokenizer`` turns them into token ids."""

    list_text: str = "<Outlines>"
    """Opens the list of subtasks; one token. Empty: the list begins with the call."""
    item_text: str = "<Outline>"
    """Opens an item of the list; one token."""
    fork_text: str = "</Outlines>"
    """Ends the list, and with it the call; one token."""
    header_text: str = "\n<Thread>\n {number}:"
    """Forced before a thread; ``{number}`` is that of its item."""
    thread_end_text: tuple[str, ...] = ("</Thread>",)
    """What ends a thread properly; each one token."""
    close_thread_text: str = "\n</Thread>"
    """Forced after a thread that did not end properly."""
    joined_text: str = "\n"
    """Forced after a join, before the sequence goes on."""
    close_text: str = "\n</Parallel>"
    """Forced after a join that ends the answer."""
    child_text: str = ""
    """Format ``calls``: forced after the item that a thread begins with."""
    result_text: str = ""
    """Format ``calls``: what a thread returns begins after the last of these; one token."""
    no_result_text: str = ""
    """Format ``calls``: stands for a thread that returned nothing."""
    list_open: int = shared(-1)
    item: int = shared(-1)
    fork: int = shared(-1)
    result: int = shared(-1)
    """Token ids of ``list_text``, ``item_text``, ``fork_text`` and ``result_text``; -1: none."""
    thread_end: tuple[int, ...] = shared(())
    header_parts: tuple[tuple[int, ...], ...] = shared(((), ()))
    """Token ids of the header before and after the number."""
    digits: tuple[int, ...] = shared(())
    """Token ids of 0 to 9, where the header has a number."""
    texts: tuple[tuple[int, str], ...] = shared(())
    """Tokens that a number, white space and a colon may be written with, and their texts."""
    close_thread_ids: tuple[int, ...] = shared(())
    joined_ids: tuple[int, ...] = shared(())
    close_ids: tuple[int, ...] = shared(())
    child_ids: tuple[int, ...] = shared(())
    no_result_ids: tuple[int, ...] = shared(())
    between: int = shared(0)
    """Tokens of line breaks that the header begins with: in a join only the first thread's are kept."""

    def with_tokenizer(self, tokenizer: Any) -> Self:
        """The driver with its markers as token ids. Raises ``ConfigError`` for a stop text that is not one token."""
        # a fixed number of threads and a number-free header need no list
        reads_list = self.format == "calls" or not self.threads  # type: ignore[attr-defined]
        one: dict[str, Any] = {"fork": stop_id(tokenizer, self.fork_text, _key("fork"))}
        forced = ("close_thread", "joined", "close", "child", "no_result")
        ids: dict[str, Any] = {
            f"{name}_ids": marker_ids(tokenizer, getattr(self, f"{name}_text"), _key(name)) for name in forced
        }
        if reads_list:
            one["item"] = stop_id(tokenizer, self.item_text, _key("item"))
            if self.list_text:
                one["list_open"] = stop_id(tokenizer, self.list_text, _key("list"))
        if self.result_text:
            one["result"] = stop_id(tokenizer, self.result_text, _key("result"))
        head, numbered, tail = self.header_text.partition("{number}")
        line_breaks = head[: len(head) - len(head.lstrip("\n"))]
        return replace(
            self,
            **ids,
            **one,
            thread_end=tuple(stop_id(tokenizer, text, _key("thread_end")) for text in self.thread_end_text),
            header_parts=tuple(marker_ids(tokenizer, text, _key("header")) for text in (head, tail)),
            digits=tuple(stop_id(tokenizer, str(d), _key("header")) for d in range(10)) if numbered else (),
            texts=_label_texts(tokenizer) if reads_list else (),
            between=len(marker_ids(tokenizer, line_breaks, _key("header"))),
        )

    def header(self, number: int) -> Ids:
        """What is forced before a thread."""
        before, after = self.header_parts
        digits = [self.digits[int(digit)] for digit in str(number)] if self.digits else []
        return np.array([*before, *digits, *after], np.int32)

    @property
    def close_thread(self) -> Ids:
        return np.array(self.close_thread_ids, np.int32)

    @property
    def joined(self) -> Ids:
        return np.array(self.joined_ids, np.int32)

    @property
    def close(self) -> Ids:
        return np.array(self.close_ids, np.int32)

    @property
    def child(self) -> Ids:
        return np.array(self.child_ids, np.int32)

    @property
    def no_result(self) -> Ids:
        return np.array(self.no_result_ids, np.int32)


def _key(name: str) -> str:
    return f"rollout.driver.{name}_text"


def _label_texts(tokenizer: Any) -> tuple[tuple[int, str], ...]:
    vocabulary = tokenizer.get_vocab()
    return tuple(
        sorted((i, tokenizer.decode([i])) for token, i in vocabulary.items() if token and _LABEL.issuperset(token))
    )
