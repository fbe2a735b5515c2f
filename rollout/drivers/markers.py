"""Markers of a driver, from the text of a setting to token ids: drivers see token ids only."""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError


def marker_ids(tokenizer: Any, text: str, setting: str) -> tuple[int, ...]:
    """Tokens of ``text``; raises ``ConfigError`` for text that the tokenizer cannot write."""
    refusal = ConfigError(f"{setting} is {text!r}, which this tokenizer cannot write; choose text of its vocabulary")
    try:
        ids = tokenizer.encode(text, add_special_tokens=False)
    except Exception as error:  # what the tokenizers package raises has no narrower class
        raise refusal from error
    # tokenizers with a closed vocabulary leave out what they lack; sentencepiece ones add or drop a leading space
    if "".join(tokenizer.decode(ids).split()) != "".join(text.split()):
        raise refusal
    return tuple(ids)


def stop_id(tokenizer: Any, text: str, setting: str) -> int:
    """The one token that ``text`` is; raises ``ConfigError`` if it is none or several: a call stops at a token."""
    ids = marker_ids(tokenizer, text, setting)
    if len(ids) != 1:
        raise ConfigError(
            f"{setting} is {text!r}, {len(ids)} tokens of this tokenizer, but a call can stop at one token only; name "
            "a token of the vocabulary, or add it to the tokenizer and the model"
        )
    return ids[0]
