"""The words of a report beside its tables: what to see first, how it was measured, what to know before quoting it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .wording import count, from_to, percent, ratio, seconds, signed_points

Summary = Mapping[str, Any]


def tiles(comparison: Summary | None) -> list[tuple[str, str, str]]:
    """(name, change, from → to) of the numbers to see first."""
    if comparison is None:
        return []
    block = comparison["overall"]
    accuracy, tokens, cost = block["accuracy"], block["tokens"], block["cost"]
    shown = [
        (
            "accuracy",
            from_to(percent(accuracy["base"]), percent(accuracy["new"])),
            f"{signed_points(accuracy['delta'])} points",
        ),
        ("tokens per answer", from_to(count(tokens["base_mean"]), count(tokens["new_mean"])), _times(tokens["ratio"])),
    ]
    if cost is not None:
        batch = max(cost["gpu_s_ratio"], key=int)
        for name, values, change in (
            ("latency of an answer", [cost[side]["latency_b1_mean"] for side in ("base", "new")], "latency_b1_ratio"),
            (
                f"GPU time per answer, B = {batch}",
                [cost[side]["gpu_s"][batch] for side in ("base", "new")],
                "gpu_s_ratio",
            ),
        ):
            value = cost[change][batch] if change == "gpu_s_ratio" else cost[change]
            shown.append((name, from_to(*seconds(*values)), _times(value)))
    return shown


def _times(value: float | None) -> str:
    return f"×{ratio(value)}"


def default_title(names: Sequence[str], summaries: Sequence[Summary], comparison: Summary | None) -> str:
    if comparison is None:
        return f"Evaluation of {names[0]}"
    models = list(dict.fromkeys(str(summary["model"]["name"]) for summary in summaries))
    return f"{' and '.join(models)}: {names[0]} against {names[1]}"


def measured(names: Sequence[str], summaries: Sequence[Summary]) -> list[tuple[str, str]]:
    """How the numbers came about, as (name, text); the settings of a comparison are those of both sides."""
    first, settings, machine = summaries[0], summaries[0]["settings"], summaries[0]["hardware"]
    k = "several" if settings["k"] is None else settings["k"]
    rows = [
        (
            "problems",
            f"{first['overall']['n']:,} ({', '.join(settings['tasks'])}), {k} samples each: "
            f"{first['overall']['n_samples']:,} responses per model",
        ),
        (
            "sampling",
            f"temperature {settings['temperature']:g}, top-p {settings['top_p']:g}, "
            f"top-k {settings['top_k'] or 'off'}, at most {settings['max_completion']:,} tokens, "
            f"seed {settings['seed']}",
        ),
        ("judged by", ", ".join(settings["verifiers"])),
    ]
    if settings.get("template"):
        rows.append(("prompt template", settings["template"]))
    for name, summary in zip(names, summaries, strict=True):
        model, seconds_spent = summary["model"], summary["seconds"]
        facts = [str(model["name"])]
        facts += [f"{model['parameters']:,} parameters"] if model.get("parameters") else []
        facts += [str(model["dtype"])] if model.get("dtype") else []
        facts += [f"weights {model['weights_hash'][:12]}"] if model.get("weights_hash") else []
        facts += [f"generated in {seconds_spent['generate']:.1f} s"] if seconds_spent.get("generate") else []
        rows.append((f"model ({name})" if len(names) > 1 else "model", ", ".join(facts)))
    if spec := first["model"].get("spec"):
        rows.append(
            (
                "cost model",
                f"{first['overall']['cost']['profile']}: {machine['peak_flops'] / 1e12:g} TFLOP/s and "
                f"{machine['bandwidth'] / 1e12:g} TB/s, of which {machine['eta_c']:.0%} and {machine['eta_m']:.0%} are "
                f"taken as reached; {spec['weight_bytes']:g} bytes per weight, {spec['kv_bytes']:g} per cached element",
            )
        )
    rows.append(("engine", str(settings["engine"])))
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in first["versions"].items() if version)))
    return rows


def caveats(summaries: Sequence[Summary], comparison: Summary | None) -> list[str]:
    """What a reader must know before quoting a number."""
    found = []
    if comparison is not None and comparison["different"]:
        found.append(f"The two evaluations were not made alike; they differ in {'; '.join(comparison['different'])}.")
    if comparison is not None and comparison["overall"]["accuracy"]["verdict"] == "undecided":
        found.append(f"The accuracy is {comparison['overall']['accuracy']['sentence']}.")
    health = [summary["overall"]["health"] for summary in summaries]
    failed = sum(side["grader_timeouts"] + side["grader_crashes"] for side in health)
    if failed:
        found.append(f"The verifier failed on {failed:,} responses (timeout or crash); they count as not right.")
    if missing := sum(side["missing_samples"] for side in health):
        found.append(f"{missing:,} samples are missing; their problems are weighted like all others.")
    if all(summary["overall"]["cost"] for summary in summaries):
        found.append(
            "Latency and GPU time are computed from the model's size and the machine's data sheet, not measured; "
            "they leave out kernel launches, scheduling and the network, which weigh most for small models."
        )
    largest = max((summary["model"].get("parameters") or 0) for summary in summaries)
    if 0 < largest < 10_000_000:
        found.append(
            f"The model has {largest:,} parameters. What works on it is evidence about the method's code, "
            "not about large models."
        )
    found.append(
        "A truncated response counts as not right and with all its tokens. Intervals treat the problems as a sample "
        "of their task: they say nothing of other tasks, prompts or seeds of training."
    )
    return found
