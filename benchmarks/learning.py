"""What every training method makes of the same model for the same sampling: ``python benchmarks/learning.py``.

    per method and seed   laconic train configs/methods/<id>.yaml tokens=TOKENS      from the tiny thinker
                          laconic eval, 1,000 problems that no training problem repeats
                          laconic compare with the base: accuracy, tokens, AES, tokens per right answer
    -> results/learning/<id>-<seed>.json, one file for each; results/learning.json with the claims

The budget is decoded tokens, those of pilots and of dropped groups included, so a method that samples more per step
takes fewer steps; the last step may go beyond it (``decoded``). A finished run is run again only if its method's file
or configuration, or the size of the benchmark, has changed; a killed one goes on. A method that fails stops no other:
the same command tries it again. ``--jobs 2`` runs two at a time on one thread each, which changes the seconds, and the
order of sums. ``--quick`` runs six methods on a fraction of it into a folder of its own and writes no claim. Everything
is a finding: there is no bar, and a method that does not do here what its paper says is listed like any other. A policy
of under a million parameters says something about code, not about seven billion.

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
from laconic.benchmarks.claim import RESULTS, ROOT, Claim, changed_sources, median_and_spread, source_hash, write_claims
from laconic.benchmarks.figures_learning import by_method, mean
from laconic.benchmarks.learning_anytime import areas, gain, over_seeds
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
BASE = "tiny-thinker"
WEIGHTS = "train/thinker/weights/model.safetensors"


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
    work = options.work.resolve() / "quick" if options.quick else options.work.resolve()
    results = work if options.quick else RESULTS / "learning"
    tokens, problems = (QUICK_TOKENS, QUICK_PROBLEMS) if options.quick else (TOKENS, PROBLEMS)
    chosen = list(QUICK) if options.quick else trained_methods()
    if options.only:
        chosen = [find(method).id for method in options.only.split(",")]
    console = Console(highlight=False)

    base, weights = work / "base", {WEIGHTS: source_hash(WEIGHTS)}
    forget_other(
        work / "conditions" / "base.json", {"problems": problems, "samples": SAMPLES, "sources": weights}, base
    )
    evaluate(BASE, base, problems, work)
    # A table of one seed is whole before the second begins.
    repeated = [method for method in chosen if method in HEADLINE and not options.quick]
    runs = [(method, SEEDS[0]) for method in chosen] + [(method, seed) for seed in SEEDS[1:] for method in repeated]
    failures: list[str] = []

    def outcome(named: tuple[str, int]) -> dict[str, Any] | None:
        method, seed = named
        path, now = results / f"{method}-{seed}.json", conditions(method, tokens, problems)
        if not up_to_date(path, now):
            try:
                measured = run(method, seed, base, now, work)
            except Exception as error:  # said at the end; the others need not wait for it
                failures.append(f"{method}, seed {seed}: {error}")
                console.print(f"{method}, seed {seed}: failed", markup=False)
                return None
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, (json.dumps(measured, indent=1) + "\n").encode())
            console.print(f"{method}, seed {seed}: {measured['seconds_with_start']:.0f} s")
        return dict(json.loads(path.read_text()))

    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = [found for found in pool.map(outcome, runs) if found is not None]
    if outcomes:
        console.print(table(outcomes))
    if failures:
        sys.exit("\n\n".join([*failures, f"{len(failures)} runs failed; the same command tries them again"]))
    if not options.quick and not options.only:
        sizes = {"tokens": tokens, "problems": problems}
        # Its areas are in no result file, and the six models it compares may not lie here any more.
        anytime = unchanged_claim("learning.brpo_anytime_gain", sizes) or anytime_claim(tokens, problems, work)
        claims = [*ratio_claims(outcomes), gvm_claim(outcomes), anytime]
        details = {**sizes, "best": best_of(outcomes)}
        write_claims("learning", "python benchmarks/learning.py", claims, details)


def conditions(method: str, tokens: int, problems: int) -> dict[str, Any]:
    """What a result depends on: sizes, and sha256 of the files that make it the method's own."""
    hashes = {source: source_hash(source) for source in sources(method)}
    return {"budget": tokens, "problems": problems, "samples": SAMPLES, "sources": hashes}


def up_to_date(path: Path, now: Mapping[str, Any]) -> bool:
    """Whether there is a result, measured under these conditions."""
    found = json.loads(path.read_text()) if path.exists() else None
    return found is not None and all(found.get(key) == value for key, value in now.items())


def unchanged_claim(claim: str, sizes: Mapping[str, int], folder: Path = RESULTS) -> Claim | None:
    """The claim as last written, if it was measured with these sizes on sources that read as they do now."""
    path = folder / "learning.json"
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    if any(record["details"].get(key) != value for key, value in sizes.items()):
        return None
    for found in record["claims"]:
        if found["id"] == claim and not changed_sources(found):
            return Claim(**{**found, "sources": list(found["sources"])})
    return None


def forget_other(mark: Path, now: Mapping[str, Any], *folders: Path) -> None:
    """Delete what was left in ``folders`` under other conditions, finished or not; it would be gone on with."""
    if mark.exists() and json.loads(mark.read_text()) == now:
        return
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    mark.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(mark, json.dumps(now).encode())


def sources(method: str) -> list[str]:
    """File and configuration of a method, and the model it begins with."""
    found = find(method)
    file = Path(inspect.getfile(method_class(found))).resolve().relative_to(ROOT).as_posix()
    return [file, found.config, WEIGHTS]


def trained_methods() -> list[str]:
    """Ids of all methods, the headline ones first."""
    ids = [method.id for method in METHODS]
    return sorted(ids, key=lambda name: (HEADLINE.index(name) if name in HEADLINE else len(HEADLINE), name))


def train(method: str, seed: int, now: Mapping[str, Any], work: Path) -> Path:
    """Train one method under these conditions, or go on with it; a run that has ended stays. Returns its folder."""
    name, config = f"{method}-{seed}", ROOT / find(method).config
    forget_other(work / "conditions" / f"{name}.json", now, work / "runs" / name, work / "eval" / name)
    budget = f"tokens={now['budget']}"
    command("train", str(config), f"name={name}", f"seed={seed}", budget, f"steps={STEPS}", cwd=work)
    return work / "runs" / name


def run(method: str, seed: int, base: Path, now: Mapping[str, Any], work: Path) -> dict[str, Any]:
    """Train, evaluate and compare one method under these conditions; what its result file holds."""
    name = f"{method}-{seed}"
    evaluation = work / "eval" / name
    started = time.perf_counter()
    folder = train(method, seed, now, work)
    trained = time.perf_counter() - started
    evaluate(f"runs/{name}", evaluation, now["problems"], work)
    lines = read_metrics(folder / "metrics.jsonl")
    compared = compare_runs(base, evaluation)["overall"]
    accuracy, lengths = compared["accuracy"], compared["tokens"]
    return {
        "method": method,
        "seed": seed,
        **now,
        "steps": len(lines),
        "decoded": sum(line["tokens/decoded"] for line in lines),
        "signal": sum(line["groups/with_signal"] for line in lines)
        / max(1, sum(line["groups/sampled"] for line in lines)),
        "threads": int(os.environ["OMP_NUM_THREADS"]),
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


def best_of(outcomes: Sequence[Mapping[str, Any]]) -> str | None:
    """The method with the fewest tokens among those that lose no accuracy with any seed."""
    methods = by_method(outcomes)
    kept = [name for name, lines in methods.items() if all(one["accuracy_change_ci95"][0] >= -MARGIN for one in lines)]
    return min(kept, key=lambda name: median_and_spread(ratios(methods[name]))[0], default=None)


def ratios(lines: Sequence[Mapping[str, Any]]) -> list[float]:
    """Tokens over the base's, for each seed."""
    return [line["token_ratio"] for line in lines]


def ratio_claims(outcomes: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """The best token ratio at no loss of accuracy, if any method has one, and that of every headline method."""
    methods = by_method(outcomes)
    named = {f"learning.token_ratio.{one}": one for one in HEADLINE}
    if best := best_of(outcomes):
        named["learning.best_token_ratio"] = best
    return [
        finding(claim, *median_and_spread(ratios(methods[one])), BASE, (one,), ratios(methods[one]))
        for claim, one in named.items()
    ]


def gvm_claim(outcomes: Sequence[Mapping[str, Any]]) -> Claim:
    """How much more accurate ``gvm`` is than ``grpo`` after the same sampled tokens; the median of three seeds."""
    methods = by_method(outcomes)
    sides = [{line["seed"]: line["accuracy"] for line in methods[method]} for method in ("grpo", "gvm")]
    samples = [sides[1][seed] - sides[0][seed] for seed in SEEDS]  # of the same problems
    return finding("learning.gvm_accuracy_gain", *median_and_spread(samples), "grpo", ("grpo", "gvm"), samples)


def anytime_claim(tokens: int, problems: int, work: Path) -> Claim:
    """How much larger brpo's area under the budget-accuracy curve is than grpo's; the interval is over problems, each
    with the mean of three seeds."""
    sides = []
    for method in ("grpo", "brpo"):
        # Without its folder (a fresh clone has the results alone) a run is trained again.
        now = conditions(method, tokens, problems)
        models = [train(method, seed, now, work) / "model" for seed in SEEDS]
        sides.append(over_seeds([areas(model, problems) for model in models]))
    difference = gain(*sides)
    spread = None if difference.ci95 is None else list(difference.ci95)
    return finding("learning.brpo_anytime_gain", difference.delta, spread, "grpo", ("grpo", "brpo"))


def finding(
    claim: str,
    value: float,
    spread: Sequence[float] | None,
    peer: str,
    methods: Sequence[str],
    samples: Sequence[float] | None = None,
) -> Claim:
    """A claim about ``methods`` that is stale when the file or the configuration of one changes."""
    more: dict[str, Any] = {} if samples is None else {"samples": samples}
    return {
        "id": claim,
        "kind": "finding",
        "value": value,
        "spread": spread,
        "peer": peer,
        "equal": None,
        "sources": sorted({source for one in methods for source in sources(one)}),
        **more,  # type: ignore[typeddict-item]
    }


if __name__ == "__main__":
    main()
