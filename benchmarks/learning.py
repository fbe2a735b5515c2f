"""What every training method makes of the same model for the same sampling: ``python benchmarks/learning.py``.

    per method and seed   laconic train configs/methods/<id>.yaml tokens=TOKENS      from the tiny thinker
                          laconic eval, 1,000 problems that no training problem repeats
                          laconic compare with the base: accuracy, tokens, AES, tokens per right answer
    -> results/learning/<id>-<seed>.json, one file for each; results/learning.json with the claims

The budget is decoded tokens, so a method that samples more per step takes fewer steps. A finished run is run again only
if its method's file or configuration has changed; a killed one goes on. ``--jobs 2`` runs two at a time on one thread
each, which changes nothing but the seconds. ``--quick`` runs six methods on a fraction of it into a folder of its own
and writes no claim. Everything is a finding: there is no bar, and a method that does not do here what its paper says is
listed like any other. A policy of under a million parameters says something about code, not about seven billion.

A claim is stale when the file or the configuration of its method changes, not with every edit of the trainer, which
other claims and tests watch.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from laconic.atomic import write_atomically
from laconic.benchmarks.claim import RESULTS, ROOT, Claim, median_and_spread, source_hash, write_claims
from laconic.benchmarks.learning_anytime import areas, gain
from laconic.eval.paired import compare_runs
from laconic.train.methods import METHODS, find, method_class
from laconic.train.metrics_log import read_metrics

HEADLINE = ("grpo", "dr_grpo", "dapo", "gppo", "ppo", "dot", "brpo", "treepo", "gvm", "hapo", "lcpo_max", "dler")
"""Methods with three seeds."""
QUICK = ("grpo", "dr_grpo", "dot", "kimi_length", "treepo", "rloo")
SEEDS = (1, 2, 3)
TOKENS, QUICK_TOKENS = 500_000, 120_000
PROBLEMS, QUICK_PROBLEMS = 1_000, 200
SAMPLES = 2
"""Answers to each problem."""
MARGIN = 0.02
"""Accuracy that may be lost, with 97.5 % confidence, by a model that counts as no less accurate."""
STEPS = 10_000
"""More than the tokens allow."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, print the table, and (not with ``--quick``) write the claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="six methods, small, in ten minutes; no claims")
    parser.add_argument("--only", help="ids of methods, with commas between; no claims")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "learning", help="training runs (default %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on its share of the cores")
    options = parser.parse_args(argv)
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of the commands below
    work = options.work / "quick" if options.quick else options.work
    results = work if options.quick else RESULTS / "learning"
    tokens, problems = (QUICK_TOKENS, QUICK_PROBLEMS) if options.quick else (TOKENS, PROBLEMS)
    chosen = options.only.split(",") if options.only else list(QUICK) if options.quick else trained_methods()
    console = Console(highlight=False)

    base = work / "base"
    evaluate("tiny-thinker", base, problems, work)
    # A table of one seed is whole before the second begins.
    repeated = [method for method in chosen if method in HEADLINE and not options.quick]
    runs = [(method, SEEDS[0]) for method in chosen] + [(method, seed) for seed in SEEDS[1:] for method in repeated]

    def outcome(named: tuple[str, int]) -> dict[str, Any]:
        path = results / f"{named[0]}-{named[1]}.json"
        if not up_to_date(path, named[0]):
            if path.exists():  # measured with other files: what is left of it would be gone on with
                for folder in ("runs", "eval"):
                    shutil.rmtree(work / folder / path.stem, ignore_errors=True)
            measured = run(*named, base, tokens, problems, work)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, (json.dumps(measured, indent=1) + "\n").encode())
            console.print(f"{named[0]}, seed {named[1]}: {measured['seconds_with_start']:.0f} s")
        return dict(json.loads(path.read_text()))

    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(outcome, runs))
    console.print(table(outcomes))
    if not options.quick and not options.only:
        claims = [*claims_of(outcomes), gvm_claim(work), anytime_claim(work)]
        write_claims("learning", "python benchmarks/learning.py", claims, {"tokens": tokens, "problems": problems})


def up_to_date(path: Path, method: str) -> bool:
    """Whether there is a result, and the files of its method are those it was measured with."""
    return path.exists() and json.loads(path.read_text())["sources"] == hashes(method)


def hashes(method: str) -> dict[str, str | None]:
    """sha256 of the files that make a method's result its own."""
    return {source: source_hash(source) for source in sources(method)}


def sources(method: str) -> list[str]:
    """File and configuration of a method, and the model it begins with."""
    found = find(method)
    file = Path(inspect.getfile(method_class(found))).resolve().relative_to(ROOT).as_posix()
    return [file, found.config, "train/thinker/weights/model.safetensors"]


def trained_methods() -> list[str]:
    """Ids of the methods that have a configuration, the headline ones first."""
    ids = [method.id for method in METHODS if method.config]
    return sorted(ids, key=lambda name: (HEADLINE.index(name) if name in HEADLINE else len(HEADLINE), name))


def run(method: str, seed: int, base: Path, tokens: int, problems: int, work: Path) -> dict[str, Any]:
    """Train, evaluate and compare one method; what its result file holds."""
    name = f"{method}-{seed}"
    started = time.perf_counter()
    config = ROOT / "configs" / "methods" / f"{method}.yaml"
    command("train", str(config), f"name={name}", f"seed={seed}", f"tokens={tokens}", f"steps={STEPS}", cwd=work)
    trained = time.perf_counter() - started
    evaluation = work / "eval" / name
    evaluate(f"runs/{name}", evaluation, problems, work)
    lines = read_metrics(work / "runs" / name / "metrics.jsonl")
    compared = compare_runs(base, evaluation)["overall"]
    accuracy, lengths = compared["accuracy"], compared["tokens"]
    return {
        "method": method,
        "seed": seed,
        "sources": hashes(method),
        "steps": len(lines),
        "budget": tokens,
        "decoded": sum(line["tokens/decoded"] for line in lines),
        "problems": problems,
        "samples": SAMPLES,
        "signal": sum(line["groups/with_signal"] for line in lines)
        / max(1, sum(line["groups/sampled"] for line in lines)),
        "seconds": sum(value for line in lines for key, value in line.items() if key.startswith("seconds/")),
        "seconds_with_start": trained,
        "base_accuracy": accuracy["base"],
        "base_tokens": lengths["base_mean"],
        "accuracy": accuracy["new"],
        "accuracy_change": accuracy["delta"],
        "accuracy_change_ci95": accuracy["ci95"],
        "tokens": lengths["new_mean"],
        "token_ratio": lengths["ratio"],
        "token_ratio_ci95": lengths["ratio_ci95"],
        "tokens_per_right": lengths["new_tpc"],
        "aes": compared["aes"]["value"],
    }


def evaluate(model: str, out: Path, problems: int, work: Path) -> None:
    """Evaluate on the same test problems as every other; goes on with an evaluation that was stopped."""
    work.mkdir(parents=True, exist_ok=True)
    sizes = ("-n", str(problems), "-k", str(SAMPLES))
    tasks = ("--task", "chain", "--task", "search")
    command("eval", model, *tasks, *sizes, "--out", str(out), cwd=work)


def command(*arguments: str, cwd: Path) -> None:
    """Run laconic in ``cwd``; its output is shown only if it fails."""
    done = subprocess.run([sys.executable, "-m", "laconic", *arguments], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"laconic {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")


def table(outcomes: Sequence[Mapping[str, Any]]) -> Table:
    """One line per method, seeds averaged, the fewest tokens first."""
    shown = Table(
        "method", "seeds", "accuracy", "tokens", "against base", "AES", "per right answer", "signal", "seconds"
    )
    for lines in sorted(by_method(outcomes).values(), key=lambda lines: mean(lines, "tokens")):
        shown.add_row(
            lines[0]["method"],
            str(len(lines)),
            f"{mean(lines, 'accuracy'):.1%} ({100 * mean(lines, 'accuracy_change'):+.1f})",
            f"{mean(lines, 'tokens'):.1f}",
            f"x{mean(lines, 'token_ratio'):.3f}",
            f"{mean(lines, 'aes'):.2f}",
            f"{mean(lines, 'tokens_per_right'):.1f}",
            f"{mean(lines, 'signal'):.0%}",
            f"{mean(lines, 'seconds'):.0f}",
        )
    return shown


def by_method(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Outcomes of all seeds of each method."""
    methods: dict[str, list[Mapping[str, Any]]] = {}
    for outcome in outcomes:
        methods.setdefault(outcome["method"], []).append(outcome)
    return methods


def mean(lines: Sequence[Mapping[str, Any]], key: str) -> float:
    """Over seeds."""
    return sum(line[key] for line in lines) / len(lines)


def claims_of(outcomes: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """The best token ratio at no loss of accuracy, and that of every headline method."""
    methods = by_method(outcomes)
    kept = [
        method for method, lines in methods.items() if all(line["accuracy_change_ci95"][0] >= -MARGIN for line in lines)
    ]
    ratios = {method: [line["token_ratio"] for line in lines] for method, lines in methods.items()}
    best = min(kept, key=lambda method: median_and_spread(ratios[method])[0])
    named = {"learning.best_token_ratio": best} | {f"learning.token_ratio.{method}": method for method in HEADLINE}
    return [
        finding(claim, *median_and_spread(ratios[method]), method, ratios[method]) for claim, method in named.items()
    ]


def gvm_claim(work: Path) -> Claim:
    """How much more accurate ``gvm`` is than ``grpo`` after the same sampled tokens; the median of three seeds."""
    pairs = [[work / "eval" / f"{method}-{seed}" for method in ("grpo", "gvm")] for seed in SEEDS]
    samples = [compare_runs(*pair)["overall"]["accuracy"]["delta"] for pair in pairs]
    return finding("learning.gvm_accuracy_gain", *median_and_spread(samples), "grpo", samples, also=("gvm",))


def anytime_claim(work: Path) -> Claim:
    """How much larger brpo's area under the budget-accuracy curve is than grpo's; the interval is over problems."""
    sides = [areas(work / "runs" / f"{method}-1" / "model", PROBLEMS // 2) for method in ("grpo", "brpo")]
    difference = gain(*sides)
    spread = None if difference.ci95 is None else list(difference.ci95)
    return finding("learning.brpo_anytime_gain", difference.delta, spread, "grpo", also=("brpo",))


def finding(
    claim: str,
    value: float,
    spread: Sequence[float] | None,
    method: str,
    samples: Sequence[float] | None = None,
    also: Sequence[str] = (),
) -> Claim:
    """A claim about ``method`` (and others) that is stale when the file or the configuration of one changes."""
    more: dict[str, Any] = {} if samples is None else {"samples": samples}
    return {
        "id": claim,
        "kind": "finding",
        "value": value,
        "spread": spread,
        "peer": method,
        "equal": None,
        "sources": sorted({source for one in (method, *also) for source in sources(one)}),
        **more,  # type: ignore[typeddict-item]
    }


if __name__ == "__main__":
    main()
