"""How well and how fast answers are judged: the ``verify.*`` claims.

Agreement is with labelled cases of public graders and with the verdicts that came with real outputs, both under the
policy ``eval``. They do not ship with the project; ``--data`` names their folder. Speed is of plain numbers, in the
pool's own worker processes. ``--disagreements`` measures nothing and prints every case that is judged otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from laconic.benchmarks.claim import ROOT, Claim, median_and_spread, write_claims
from laconic.rewards.grade import grade_file
from laconic.rewards.pool import VerifierPool
from laconic.rewards.verdict import Item, Judgement
from laconic.rewards.verifiers.formulas.equality import compare

CASES = "grading_cases_public.jsonl"
TRACES = ("traces_qwen25math_cot.jsonl", "traces_gpt3_gsm8k.jsonl")
NUMBERS = 20_000
"""Plain numbers of one timing; both paths are compared on a tenth of them."""
RUNS = 5
SAMPLES = 100_000
CORES = 2
"""Cores that grade the samples."""
SHOWN = 48
"""Characters of a gold or an answer in the table of disagreements."""
SOURCES = ["rewards/*.py", "rewards/verifiers/*.py", "rewards/verifiers/formulas/*.py", "benchmarks/verify.py"]


def main() -> None:
    """Measure and write ``benchmarks/results/verify.json``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder with the cases")
    parser.add_argument("--disagreements", action="store_true", help="print a table of them and measure nothing")
    arguments = parser.parse_args()
    folder = arguments.data
    absent = [name for name in (CASES, *TRACES) if not (folder / name).is_file()]
    if absent:
        sys.exit(
            f"error: {folder} lacks {', '.join(absent)}; give their folder: python benchmarks/verify.py --data DIR"
        )
    if arguments.disagreements:
        print_disagreements(folder)
        return
    agreed, cases = agreement(folder)
    traces = {name: trace_agreement(folder / name) for name in TRACES}
    rates = [plain_per_second(seed) for seed in range(RUNS)]
    rate, spread = median_and_spread(rates)
    seconds = parquet_seconds()
    shares = {kind: agreed[kind] / cases[kind] for kind in cases}
    claims = [
        claim("verify.core_agreement", "floor", shares["core"], peer="labels of public graders"),
        claim("verify.convention_agreement", "finding", shares["convention"], peer="labels of public graders"),
        claim("verify.hard_agreement", "finding", shares["hard"], peer="labels of public graders"),
        claim("verify.traces_agreement", "floor", min(traces.values()), peer="verdicts that came with the outputs"),
        claim("verify.plain_per_s", "floor", rate, spread=spread, samples=rates),
        claim("verify.parquet_100k_seconds", "ceiling", seconds),
    ]
    details = {"cases": cases, "agreed": agreed, "traces": traces, "numbers": NUMBERS, "samples": SAMPLES}
    path = write_claims("verify", command="python benchmarks/verify.py", claims=claims, details=details)
    for one in claims:
        print(f"{one['id']}: {one['value']:.4g}")
    print(f"-> {path}")


def claim(
    name: str,
    kind: Any,
    value: float,
    *,
    peer: str | None = None,
    spread: Sequence[float] | None = None,
    samples: Sequence[float] | None = None,
) -> Claim:
    """One claim. Beside labels ``equal`` is true: how often the verdicts differ is the figure itself."""
    made: Claim = {
        "id": name,
        "kind": kind,
        "value": value,
        "spread": spread,
        "peer": peer,
        "equal": None if peer is None else True,
        "sources": SOURCES,
    }
    return made if samples is None else {**made, "samples": samples}


def agreement(folder: Path) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Labelled cases judged as labelled, and all of them, by class."""
    rows = read(folder / CASES)
    kinds = [kind_of(row).partition(":")[0] for row in rows]
    agreed = Counter(
        kind for kind, row, found in zip(kinds, rows, judged(rows), strict=True) if found.verdict.right is expected(row)
    )
    return agreed, Counter(kinds)


def trace_agreement(file: Path) -> float:
    """Share of real outputs on which the source's verdict is ours."""
    rows = with_gold(file)
    return sum(found.verdict.right is expected(row) for row, found in zip(rows, judged(rows), strict=True)) / len(rows)


def print_disagreements(folder: Path) -> None:
    """A Markdown table of every labelled case and real output that is judged otherwise."""
    print("| class | gold | read in the response | labelled | judged | reason |\n|---|---|---|---|---|---|")
    for name in (CASES, *TRACES):
        rows = with_gold(folder / name)
        for row, found in sorted(zip(rows, judged(rows), strict=True), key=lambda pair: kind_of(pair[0])):
            if found.verdict.right is not expected(row):
                label = "right" if expected(row) else "wrong"
                shown = [shortened(row["gold"]), shortened(found.extracted or row["response"])]
                print("|", " | ".join([kind_of(row), *shown, label, found.verdict, found.reason]), "|")


def kind_of(row: Mapping[str, Any]) -> str:
    """The class of a labelled case, such as ``core`` or ``convention:percent``; of a real output its id."""
    return str(row["note"].partition(";")[0]) if "note" in row else str(row["id"])


def expected(row: Mapping[str, Any]) -> bool:
    """Whether the source says that the answer is right."""
    return bool(row["expected"] if "expected" in row else row["correct"])


def shortened(text: str) -> str:
    """``text`` as code in a cell of a table."""
    line = " ".join(text.split()).replace("|", "\\|").replace("`", "'")
    return f"`{line if len(line) <= SHOWN else line[:SHOWN] + '..'}`"


def with_gold(file: Path) -> list[dict[str, Any]]:
    """The rows of a file that have a reference answer."""
    return [row for row in read(file) if row.get("gold") is not None]


def judged(rows: Sequence[Mapping[str, Any]]) -> list[Judgement]:
    """Judgements under the policy ``eval``; the deadline is a long one, because how fast they come is another claim."""
    with VerifierPool(deadline=60, verifiers=("math_eval",)) as pool:
        return pool.judge([Item(row["response"], row["gold"], "math_eval") for row in rows])


def plain_per_second(seed: int) -> float:
    """Judgements per second of one worker; no two answers are equal, so that no cache helps.

    Raises ``RuntimeError`` when a verdict is not what arithmetic says, or the slow path has another.
    """
    draw = Random(seed)
    golds = draw.sample(range(10**6, 10**9), NUMBERS)
    rights = [draw.random() < 0.5 for _ in golds]
    answers = [f"{gold:,}" if right else str(gold + 1) for gold, right in zip(golds, rights, strict=True)]
    items = [
        Item(f"<think>{answer}</think>So \\boxed{{{answer}}}.", str(gold), "math")
        for gold, answer in zip(golds, answers, strict=True)
    ]
    with VerifierPool(1, verifiers=("math",)) as pool:
        pool.judge(items[:100])
        start = time.perf_counter()
        judgements = pool.judge(items)
        seconds = time.perf_counter() - start
    if [judgement.verdict.right for judgement in judgements] != rights:
        raise RuntimeError("the pool's verdicts on plain numbers are not those of arithmetic")
    some = slice(0, NUMBERS // 10)
    for gold, answer, right in zip(golds[some], answers[some], rights[some], strict=True):
        if compare(str(gold), answer, fast=False)[0] is not right:
            raise RuntimeError(f"the slow path judges {answer!r} for the gold {gold} otherwise than the fast one")
    return NUMBERS / seconds


def parquet_seconds() -> float:
    """Seconds to grade many samples from Parquet, as ``laconic grade FILE --json`` does, on two cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    draw = Random(0)
    golds = [draw.randrange(10**6) for _ in range(SAMPLES)]
    rows = {
        "gold": [str(gold) for gold in golds],
        "response": [f"<think>{gold}</think>\\boxed{{{gold + draw.randrange(2)}}}" for gold in golds],
    }
    with tempfile.TemporaryDirectory() as name:
        samples, verdicts = Path(name) / "samples.parquet", Path(name) / "verdicts.jsonl"
        pq.write_table(pa.table(rows), samples)
        start = time.perf_counter()
        with verdicts.open("w") as out, redirect_stdout(out):
            tally = grade_file(samples, as_json=True)
        seconds = time.perf_counter() - start
        if tally.errors or sum(1 for _ in verdicts.open()) != SAMPLES:
            raise RuntimeError(f"{SAMPLES} samples gave {len(tally.errors)} errors and another number of lines")
    return seconds


def read(file: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
