r"""`laconic grade`: judge the lines of a file in the worker pool.

    {"gold": "1/2", "response": "<think>..</think>\\boxed{0.5}"}     and, where wanted, "truncated" and "verifier"
    {"verdict": "right", "extracted": "0.5", "reason": ""}          one line for each, in the same order

A line that cannot be used gets ``{"error": "cases.jsonl line 1207: ..."}`` in its place; the others are judged all the
same. A wrong answer to a gold that no answer can match has a reason such as ``gold_unparsed``. Blank lines are passed
over. The file is read in pieces, so its size does not matter. Parquet files with the same columns do, too.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from ..errors import ConfigError, DataError
from .golds import GOLD_VERIFIER, MATHEMATICAL, gold_fault, unusable_golds
from .pool import VerifierPool
from .verdict import Item, Judgement, Verdict
from .verifiers import resolve
from .verifiers.formulas.plain import plain_number

POLICIES = {"strict": "math", "eval": "math_eval"}
"""Policy -> the verifier of lines that name none."""
DEADLINE = 10.0
"""Seconds a line may take."""
PIECE = 2048
"""Lines judged in one go."""
ALARMS = (Verdict.TIMEOUT, Verdict.CRASHED)
"""Verdicts without a judgement: reported as wrong, with the reason, and counted apart."""

Case = tuple[str, Item | str]
"""Place of a line, and its item or what is wrong with it."""


@dataclass
class Tally:
    """What was graded."""

    verdicts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Reason of every line that has one."""
    alarms: int = 0
    """Lines on which the verifier ran out of time or crashed."""
    errors: list[str] = field(default_factory=list)
    """What is wrong with the lines that could not be judged."""
    golds: list[str] = field(default_factory=list)
    """Lines whose answer is wrong because the gold cannot be read."""


def grade_file(
    path: Path, *, policy: str = "strict", verifier: str | None = None, as_json: bool = False, out: TextIO | None = None
) -> Tally:
    """Judge every line of ``path`` and print one JSON object per line (to ``out``), or a table of counts.

    verifier: of lines that name none; the policy's by default. Raises ``ConfigError`` for an unknown policy or
    verifier, ``DataError`` for a file that cannot be read.
    """
    if policy not in POLICIES:
        raise ConfigError(f"unknown policy {policy!r}; known: {', '.join(POLICIES)}")
    default = verifier or POLICIES[policy]
    resolve(default)
    cases, named = _survey(path, default)
    tally = Tally()
    lines = (out or sys.stdout) if as_json else None
    if cases:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(cores, math.ceil(cases / PIECE))
        spare = int(cases > PIECE)
        if named & set(MATHEMATICAL):
            named.add(GOLD_VERIFIER)
        with VerifierPool(workers, DEADLINE, spare=spare, verifiers=sorted(named)) as pool:
            _grade(path, default, pool, cases, tally, lines)
    else:
        _report(_pieces(path, default), None, tally, lines)
    if not as_json:
        _print_table(path, tally)
    return tally


def _survey(path: Path, default: str) -> tuple[int, set[str]]:
    """``(usable lines, verifiers they name)``: the pool must know before it starts."""
    cases, named = 0, set[str]()
    for _, case in _cases(path, default):
        if isinstance(case, Item):
            cases += 1
            named.add(case.verifier)
    return cases, named


def _grade(path: Path, default: str, pool: VerifierPool, cases: int, tally: Tally, out: TextIO | None) -> None:
    from tqdm import tqdm

    with tqdm(total=cases, desc="grade", unit="line", disable=None, leave=False) as bar:
        for piece in _pieces(path, default):
            _report(iter([piece]), pool, tally, out)
            bar.update(sum(isinstance(case, Item) for _, case in piece))


def _report(pieces: Iterator[list[Case]], pool: VerifierPool | None, tally: Tally, out: TextIO | None) -> None:
    """Judge the lines of some pieces, and print them to ``out``."""
    for piece in pieces:
        items = {place: case for place, case in piece if isinstance(case, Item)}
        judgements = _judge(items, pool, tally) if pool is not None else {}
        lines = []
        for place, case in piece:
            if isinstance(case, Item):
                lines.append(_count(judgements[place], tally))
            else:
                tally.errors.append(f"{place}: {case}")
                lines.append({"error": tally.errors[-1]})
        if out is not None:
            print("\n".join(json.dumps(line) for line in lines), file=out, flush=True)


def _judge(items: dict[str, Item], pool: VerifierPool, tally: Tally) -> dict[str, Judgement]:
    """The judgement of each item; that of a wrong answer says so if no answer could have been right."""
    judgements = dict(zip(items, pool.judge(list(items.values())), strict=True))
    doubtful = [
        place
        for place, item in items.items()
        if judgements[place].verdict is Verdict.WRONG
        and item.verifier in MATHEMATICAL
        and plain_number(item.gold) is None
    ]
    for index, fault in unusable_golds([items[place].gold for place in doubtful], "math", pool).items():
        place = doubtful[index]
        judgements[place] = replace(judgements[place], reason=f"gold_{fault}")
        tally.golds.append(f"{place}: gold {items[place].gold[:80]!r} cannot be read ({fault}); mend or drop the line")
    return judgements


def _count(judgement: Judgement, tally: Tally) -> dict[str, str | None]:
    """The printed line of a judgement; one that was cut off is wrong, and its reason says what happened."""
    verdict, reason = judgement.verdict, judgement.reason
    if verdict in ALARMS:
        tally.alarms += 1
        reason = "timeout" if verdict is Verdict.TIMEOUT else f"crashed: {reason}"
        verdict = Verdict.WRONG
    tally.verdicts[verdict] += 1
    if reason:
        tally.reasons[reason] += 1
    return {"verdict": verdict.value, "extracted": judgement.extracted, "reason": reason}


def _pieces(path: Path, default: str) -> Iterator[list[Case]]:
    cases = _cases(path, default)
    while piece := list(islice(cases, PIECE)):
        yield piece


def _cases(path: Path, default: str) -> Iterator[Case]:
    """Every line that is not blank."""
    for number, row in enumerate(_rows(path), start=1):
        if isinstance(row, bytes) and row.isspace():
            continue
        place = f"{path.name} {'row' if path.suffix == '.parquet' else 'line'} {number}"
        try:
            yield place, _item(row, default)
        except (DataError, ConfigError) as error:
            yield place, str(error)


def _rows(path: Path) -> Iterator[Any]:
    """Lines of a JSONL file as bytes, or rows of a Parquet file as dictionaries."""
    if not path.is_file():
        raise DataError(f"no file {path}; give a JSONL or Parquet file with the columns gold and response")
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    with path.open("rb") as file:
        yield from file


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path.name} is no Parquet file that can be read: {error}") from error
    missing = {"gold", "response"}.difference(table.schema_arrow.names)
    if missing:
        has = ", ".join(table.schema_arrow.names)
        raise DataError(f"{path.name} lacks the columns {', '.join(sorted(missing))}; it has {has}")
    columns = [name for name in ("gold", "response", "truncated", "verifier") if name in table.schema_arrow.names]
    for batch in table.iter_batches(PIECE, columns=columns):
        yield from batch.to_pylist()


def _item(row: Any, default: str) -> Item:
    """The item of a row. Raises ``DataError`` or ``ConfigError`` with what is wrong, without the place."""
    if isinstance(row, bytes):
        try:
            row = json.loads(row)
        except (ValueError, RecursionError) as error:
            raise DataError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{type(row).__name__} instead of an object with gold and response")
    gold, response = row.get("gold"), row.get("response")
    if isinstance(gold, int | float) and not isinstance(gold, bool):
        gold = str(gold)
    if not isinstance(gold, str) or not gold.strip():
        raise DataError("gold is missing or empty; it must be the reference answer as text")
    if not isinstance(response, str):
        raise DataError("response is missing or no text")
    truncated, verifier = row.get("truncated") or False, row.get("verifier") or default
    if not isinstance(truncated, bool):
        raise DataError(f"truncated is {truncated!r}; it must be true or false")
    if not isinstance(verifier, str):
        raise DataError(f"verifier is {verifier!r}; it must be an id or 'module:function'")
    resolve(verifier)
    if verifier not in MATHEMATICAL and (fault := gold_fault(gold, verifier)):
        raise DataError(f"the verifier {verifier} cannot read the gold {gold[:80]!r} ({fault})")
    return Item(response, gold, verifier, truncated)


def _print_table(path: Path, tally: Tally) -> None:
    from rich.console import Console
    from rich.table import Table

    total = sum(tally.verdicts.values())
    table = Table("verdict, reason")
    table.add_column("lines", justify="right")
    table.add_column("share", justify="right")
    for verdict in (Verdict.RIGHT, Verdict.WRONG, Verdict.UNREADABLE, Verdict.TRUNCATED):
        count = tally.verdicts[verdict]
        table.add_row(verdict.value, f"{count:,}", f"{count / max(1, total):.1%}")
    if tally.reasons:
        table.add_section()
    for reason, count in tally.reasons.most_common():
        table.add_row(f"  {reason}", f"{count:,}", f"{count / max(1, total):.1%}")
    console = Console()
    console.print(f"{path.name}: {total:,} judged, {len(tally.errors):,} unusable", highlight=False)
    console.print(table)
