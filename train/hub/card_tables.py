"""The measured part of the card: rows of numbers with their intervals, and the limits they have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...eval.wording import (
    bracket,
    comparison_headline,
    count,
    evaluation_headline,
    margin_words,
    percent,
    ratio,
    seconds,
    signed_points,
)
from .evidence import Evidence, Measured, Summary
from .trained_run import TrainedRun

FEW_PROBLEMS = 200
"""With fewer the interval of an accuracy near one half is wider than 7 points to either side."""
LABELS = ("the base model", "this model")
Block = Mapping[str, Any]


def headline(one: Measured) -> str:
    """What was found, in one or two sentences."""
    if one.comparison is None:
        return evaluation_headline(one.summary["overall"], "This model").detail
    overall = one.comparison["overall"]
    found = comparison_headline(overall, LABELS)
    return f"{_capital(found.claim)}. {_capital(found.detail)} {_capital(overall['accuracy']['sentence'])}."


def rows(one: Measured) -> Iterator[tuple[str, str, str, str, str]]:
    """Task, model, accuracy, tokens per answer, truncated; with a base three rows per task."""
    for block in _shown(one.summary):
        title = "all tasks" if block["task"] == "all" else block["task"]
        base = None if one.base is None else _same_task(one.base, block)
        if base is not None:
            yield (title, "base", *_cells(base))
        yield (title, "this model", *_cells(block))
        if one.comparison is not None:
            change = _same_task(one.comparison, block)
            accuracy, tokens = change["accuracy"], change["tokens"]
            yield (
                title,
                "change",
                f"{signed_points(accuracy['delta'])} points{bracket(accuracy['ci95'], signed_points)}",
                f"×{ratio(tokens['ratio'])}{bracket(tokens['ratio_ci95'], ratio)}",
                "",
            )


def cost_rows(one: Measured) -> dict[str, Any] | None:
    """Computed cost per answer: what the columns are called, and a row per model."""
    sides = {"base": one.base, "this model": one.summary}
    costs = {name: side["overall"]["cost"] for name, side in sides.items() if side is not None}
    if not all(costs.values()):
        return None
    batch = max(costs["this model"]["gpu_s"], key=int)
    latency = seconds(*(cost["latency_b1_mean"] for cost in costs.values()))
    busy = seconds(*(1000 * cost["gpu_s"][batch] for cost in costs.values()))
    flops = [f"{cost['flops_mean']:.3g}" for cost in costs.values()]
    return {
        "profile": costs["this model"]["profile"],
        "columns": ["latency of an answer alone", f"GPU time per 1,000 answers, batch {batch}", "FLOPs per answer"],
        "rows": list(zip(costs, latency, busy, flops, strict=True)),
    }


def how_measured(summary: Summary) -> str:
    """Problems, sampling, cap and judging in one sentence."""
    settings, overall = summary["settings"], summary["overall"]
    samples = f"{overall['n_samples']:,} samples" if overall["k"] is None else f"{overall['k']} samples each"
    sampling = "greedy" if settings["temperature"] == 0 else f"temperature {settings['temperature']:g}"
    if settings["temperature"] and settings["top_p"] < 1:
        sampling += f", top-p {settings['top_p']:g}"
    if settings["temperature"] and settings["top_k"]:
        sampling += f", top-k {settings['top_k']}"
    return (
        f"{overall['n']:,} problems, {samples}, {sampling}, at most {settings['max_completion']:,} tokens, seed "
        f"{settings['seed']}; verifier {', '.join(settings['verifiers'])}; computed in {summary['model']['dtype']}; "
        f"laconic {summary['versions']['laconic']}, torch {summary['versions']['torch']}. "
        "Intervals are 95 %, clustered by problem."
    )


def limits(run: TrainedRun, evidence: Evidence) -> list[str]:
    """What the numbers do not say."""
    if not evidence.measured:
        return ["Nothing was measured of these weights: neither accuracy nor length nor cost is known."]
    found = []
    tested = [task for one in evidence.measured for task in one.summary["settings"]["tasks"]]
    if run.settings.task.file is None and set(tested) <= set(run.settings.task.names):
        found.append("It was tested on the kinds of problems it was trained on. Nothing is known of others.")
    else:
        found.append("It was tested on the tasks above. Nothing is known of others.")
    for one in evidence.measured:
        found += _limits_of(one)
    found.append("Cost is arithmetic on the model's size and a machine's data sheet, not a timing.")
    found.append("Only accuracy, length and cost were measured: no other languages, no safety, no factual knowledge.")
    return list(dict.fromkeys(found))


def _limits_of(one: Measured) -> Iterator[str]:
    overall, name = one.summary["overall"], ", ".join(one.summary["settings"]["tasks"])
    if overall["n"] < FEW_PROBLEMS:
        yield f"{name}: only {overall['n']} problems; mind the intervals."
    if overall["tokens"]["trunc_rate"] > 0:
        cap = one.summary["settings"]["max_completion"]
        yield f"{name}: {percent(overall['tokens']['trunc_rate'])} of the answers ran into the cap of {cap:,} tokens."
    broken = overall["health"]["grader_timeouts"] + overall["health"]["grader_crashes"]
    if broken:
        of = f"{broken:,} of {overall['n_samples']:,} answers"
        yield f"{name}: the verifier failed on {of}, which count as not right."
    if one.comparison is None:
        yield f"{name}: the base was not measured under the same settings, so the gain of the training is not known."
        return
    accuracy = one.comparison["overall"]["accuracy"]
    margin = margin_words(accuracy["margin"])
    if accuracy["verdict"] == "inferior":
        yield f"{name}: **less accurate than the base**, by more than the margin of {margin}."
    elif accuracy["verdict"] == "undecided":
        yield f"{name}: **undecided** whether the accuracy fell by more than {margin}; more problems would tell."


def _shown(summary: Summary) -> list[Block]:
    """All tasks together only where there are several."""
    return list(summary["tasks"]) if len(summary["tasks"]) == 1 else [summary["overall"], *summary["tasks"]]


def _same_task(side: Summary, block: Block) -> Block:
    return next((other for other in side["tasks"] if other["task"] == block["task"]), side["overall"])


def _cells(block: Block) -> tuple[str, str, str]:
    accuracy, tokens = block["accuracy"]["avg_at_k"], block["tokens"]
    return (
        f"{percent(accuracy['value'])}{bracket(accuracy['ci95'], percent)}",
        f"{count(tokens['mean'])}{bracket(tokens['mean_ci95'], count)}",
        percent(tokens["trunc_rate"]),
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
