"""Example responses for a report: the same problem answered by each model, thought and answer apart.

Which problems: an easy one and a hard one that all models got right, and one that the last model got wrong; each with
a response of typical length (nearest to the median), so that nobody picked them for their looks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..rewards.verifiers.answer_part import END_THINK
from .wording import the_model

FOLD_AFTER = 900
"""Characters of a thought shown before the rest is folded away."""
KEEP = 20_000
"""Characters of a text kept at all."""


@dataclass(frozen=True, slots=True)
class Response:
    """What one model wrote."""

    label: str
    thought: str
    """Without its markers; empty for a model that does not think."""
    answer: str
    tokens: int
    thought_tokens: int
    verdict: str
    """A ``Verdict`` value."""
    right: bool
    found: str | None = None
    """The answer that was read from the response."""


@dataclass(frozen=True, slots=True)
class Example:
    """One problem and what each model wrote."""

    title: str
    task: str
    level: int | None
    prompt: str
    gold: str
    responses: tuple[Response, ...]


def pick_examples(tables: Mapping[str, pa.Table], end_think: str | None = END_THINK) -> list[Example]:
    """Up to three examples from the samples of each model (label -> ``samples.parquet``), base first.

    end_think: the text that ends a thought, None where there are no thoughts.
    """
    columns = ["benchmark", "problem_id", "sample_idx", "level", "n_response", "n_think", "verdict", "correct"]
    columns += ["pred_raw", "gold", "prompt_text", "response_text"]
    by_key = [
        {(row["benchmark"], row["problem_id"], row["sample_idx"]): row for row in table.select(columns).to_pylist()}
        for table in tables.values()
    ]
    if not by_key:
        return []
    shared = [key for key in by_key[0] if all(key in side for side in by_key[1:])]
    pairs = [[side[key] for side in by_key] for key in shared]
    right = [pair for pair in pairs if all(row["correct"] for row in pair)]
    wrong = [pair for pair in pairs if not pair[-1]["correct"]]
    # A case that the training broke says more than one that was never solved.
    broken = [pair for pair in wrong if all(row["correct"] for row in pair[:-1])]
    last = list(tables)[-1]
    wanted: list[tuple[str, list[list[dict[str, Any]]]]] = [
        ("An easy problem", _of_difficulty(right, min)),
        ("A hard problem", _of_difficulty(right, max)),
        (f"A problem that {the_model(last)} got wrong", broken or wrong),
    ]
    examples: list[Example] = []
    used: set[str] = set()
    for title, candidates in wanted:
        fresh = [pair for pair in candidates if pair[0]["problem_id"] not in used]
        if fresh:
            # Another task than in the examples before, where there is a choice.
            tasks = {example.task for example in examples}
            pair = _typical([pair for pair in fresh if pair[0]["benchmark"] not in tasks] or fresh)
            used.add(pair[0]["problem_id"])
            examples.append(_example(title, pair, list(tables), end_think))
    return examples


def split_thought(text: str, end_think: str | None) -> tuple[str, str]:
    """(thought, answer) of a response; the last end of thought counts, without one everything is thought."""
    if end_think is None:
        return "", text
    thought, mark, answer = text.rpartition(end_think)
    if not mark:
        thought, answer = text, ""
    return thought.removeprefix(end_think.replace("/", "")), answer


def shortened(text: str) -> str:
    """At most ``KEEP`` characters, with a word on what was left out."""
    return text if len(text) <= KEEP else f"{text[:KEEP]}\n[{len(text) - KEEP:,} more characters left out]"


def _of_difficulty(pairs: Sequence[list[dict[str, Any]]], end: Callable[..., Any]) -> list[list[dict[str, Any]]]:
    """The easiest or hardest pairs: by level where known, else by how long the first model's response is."""
    if not pairs:
        return []
    if all(pair[0]["level"] is not None for pair in pairs):
        level = end(pair[0]["level"] for pair in pairs)
        return [pair for pair in pairs if pair[0]["level"] == level]
    limit = np.percentile([pair[0]["n_response"] for pair in pairs], 10 if end is min else 90)
    return [pair for pair in pairs if end(pair[0]["n_response"], limit) == pair[0]["n_response"]]


def _typical(pairs: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The pair whose lengths are nearest to the medians, in octaves."""
    log_PS = np.log2([[max(row["n_response"], 1) for row in pair] for pair in pairs])
    return pairs[int(np.abs(log_PS - np.median(log_PS, axis=0)).sum(axis=1).argmin())]


def _example(title: str, pair: Sequence[dict[str, Any]], labels: Sequence[str], end_think: str | None) -> Example:
    responses = []
    for label, row in zip(labels, pair, strict=True):
        thought, answer = split_thought(row["response_text"], end_think)
        counts, judged = (row["n_response"], row["n_think"]), (row["verdict"], row["correct"], row["pred_raw"])
        responses.append(Response(label, thought, answer, *counts, *judged))
    first = pair[0]
    return Example(title, first["benchmark"], first["level"], first["prompt_text"], first["gold"], tuple(responses))
