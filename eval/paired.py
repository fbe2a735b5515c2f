"""Compare two finished evaluations problem by problem; refuses what cannot be compared.

The statistics are in ``pairing.py``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from .hardware import Hardware
from .metrics import Problems, truncation_decomposition
from .model_spec import ModelSpec
from .pairing import (
    AES,
    aes,
    geometric_ratio,
    non_inferiority,
    paired_delta,
    ratio_of_sums,
)
from .records import read_samples
from .summary import OVERALL, SCHEMA_VERSION, block, column, plain, problem_keys

# Shapes: P problems, in the order of the sorted keys

F64 = NDArray[np.float64]
SAME = {
    "tasks": "task",
    "problems_hash": "problems",
    "template": "template",
    "k": "k",
    "max_completion": "cap",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "verifiers": "verifier",
    "end_think": "end of thought",
    "engine": "engine",
}
"""Settings that must agree, and what they are called."""
MATH_VERIFY = "math-verify"
"""The package that grades formulas, by its name among a summary's ``versions``."""


def compare_runs(
    base_dir: str | Path,
    new_dir: str | Path,
    *,
    margin: float = 0.01,
    pooled_margin: float | None = None,
    draws: int = 10_000,
    seed: int = 0,
    allow_different: bool = False,
) -> dict[str, Any]:
    """Compare two finished evaluations problem by problem; the result holds only what JSON has.

    margin: accuracy loss that still counts as non-inferior, a share. pooled_margin: the one for all problems of
        several tasks together (default: the larger of ``margin`` and 0.02); a single task keeps ``margin``.
    allow_different: compare in spite of different settings, on the problems both have.

    Costs are those of each model's own responses on the new run's machine. Raises ``ConfigError`` that lists what
    differs (task, problems, template, k, cap, sampling, verifier, engine, number type, version of math-verify) and
    ``DataError`` for a folder that holds no finished evaluation.
    """
    folders = (Path(base_dir), Path(new_dir))
    summaries = [_read_summary(folder) for folder in folders]
    tables = [read_samples(folder) for folder in folders]
    different = differences(*summaries)
    if different and not allow_different:
        raise ConfigError(
            f"{folders[0]} and {folders[1]} cannot be compared; they differ in {'; '.join(different)}; "
            "evaluate both under the same settings, or allow different settings (--allow-different)"
        )
    shared = np.intersect1d(problem_keys(tables[0]), problem_keys(tables[1]))
    if not len(shared):
        raise DataError(f"{folders[0]} and {folders[1]} have no problem in common; evaluate both on the same task")
    tables = [table.filter(pa.array(np.isin(problem_keys(table), shared))) for table in tables]
    tasks = list(dict.fromkeys(tables[0]["benchmark"].to_pylist()))
    specs = [None if s["model"]["spec"] is None else ModelSpec(**s["model"]["spec"]) for s in summaries]
    hardware, batches = Hardware(**summaries[1]["hardware"]), tuple(summaries[1]["batches"])
    cap = summaries[1]["settings"]["max_completion"]

    def compared(task: str, sides: Sequence[pa.Table], limit: float) -> dict[str, Any]:
        blocks = [block(task, side, spec, hardware, batches) for side, spec in zip(sides, specs, strict=True)]
        return compare_block(sides, blocks, margin=limit, cap=cap, draws=draws, seed=seed)

    pooled = pooled_margin if pooled_margin is not None else (margin if len(tasks) == 1 else max(margin, 0.02))
    return plain(
        {
            "schema_version": SCHEMA_VERSION,
            **{
                side: {"run_id": summary["run_id"], "model": summary["model"]["name"], "folder": str(folder)}
                for side, summary, folder in zip(("base", "new"), summaries, folders, strict=True)
            },
            "different": different,
            "overall": compared(OVERALL, tables, pooled),
            "tasks": [
                compared(task, [table.filter(pc.equal(table["benchmark"], task)) for table in tables], margin)
                for task in tasks
            ],
        }
    )


def differences(base: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What must agree between two summaries and does not, in words. What both were written without agrees."""
    sides = [_conditions(summary) for summary in (base, new)]
    return [f"{label}: {one!r} and {sides[1][label]!r}" for label, one in sides[0].items() if one != sides[1][label]]


def _conditions(summary: Mapping[str, Any]) -> dict[str, Any]:
    settings = summary["settings"]
    conditions = {label: settings.get(name) for name, label in SAME.items()}
    conditions["number type"] = summary["model"].get("dtype")
    formulas = any(name.startswith("math") for name in settings.get("verifiers") or ())
    conditions[MATH_VERIFY] = summary.get("versions", {}).get(MATH_VERIFY) if formulas else None
    return conditions


def _read_summary(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    if not path.is_file():
        raise DataError(f"no summary.json in {folder}; give the folder of a finished evaluation")
    try:
        summary = dict(json.loads(path.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON; evaluate again") from error
    if summary.get("schema_version") != SCHEMA_VERSION or "settings" not in summary:
        raise DataError(
            f"{path} has schema_version {summary.get('schema_version')!r}, not {SCHEMA_VERSION} of an evaluation; "
            "evaluate again with this version"
        )
    return summary


def compare_block(
    sides: Sequence[pa.Table],
    blocks: Sequence[dict[str, Any]],
    *,
    margin: float,
    cap: int,
    draws: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare ``sides`` (base and new rows) whose own numbers are ``blocks`` (``laconic.eval.summary.block``)."""
    base, new = blocks
    right_P, length_P = (_paired(sides, name) for name in ("correct", "n_response"))
    delta = paired_delta(*right_P, seed=seed)
    verdict, sentence = non_inferiority(delta, margin)
    ratio = ratio_of_sums(*length_P, draws=draws, seed=seed)
    geometric = geometric_ratio(*length_P)
    weights = AES()
    score = aes(right_P[0], length_P[0], right_P[1], length_P[1], weights=weights, draws=draws, seed=seed)
    return {
        "task": base["task"],
        "n": delta.n,
        "k": base["k"] if base["k"] == new["k"] else None,
        "accuracy": {
            "base": base["accuracy"]["avg_at_k"]["value"],
            "base_ci95": base["accuracy"]["avg_at_k"]["ci95"],
            "new": new["accuracy"]["avg_at_k"]["value"],
            "new_ci95": new["accuracy"]["avg_at_k"]["ci95"],
            "delta": delta.delta,
            "se": delta.se,
            "ci95": delta.ci95,
            "degenerate": delta.degenerate,
            "p": delta.p,
            "p_method": delta.p_method,
            "margin": margin,
            "verdict": verdict,
            "sentence": sentence,
            "mdd": 2.8 * delta.se if delta.se else math.nan,
        },
        "tokens": {
            "base_mean": base["tokens"]["mean"],
            "new_mean": new["tokens"]["mean"],
            "ratio": ratio.value,
            "ratio_ci95": ratio.ci95,
            "geometric": geometric.value,
            "geometric_ci95": geometric.ci95,
            "base_trunc_rate": base["tokens"]["trunc_rate"],
            "new_trunc_rate": new["tokens"]["trunc_rate"],
            "base_tpc": base["efficiency"]["tpc"],
            "new_tpc": new["efficiency"]["tpc"],
        },
        "aes": {
            "value": score.value,
            "ci95": score.ci95,
            "weights": {"alpha": weights.alpha, "beta": weights.beta, "gamma": weights.gamma},
        },
        "truncation": _truncation(sides, cap),
        "cost": _cost(base["cost"], new["cost"]),
        "levels": _levels(sides, blocks, draws, seed),
        "pass_at": {
            k: {"base": value, "new": new["accuracy"]["pass_at"][k], "delta": new["accuracy"]["pass_at"][k] - value}
            for k, value in base["accuracy"]["pass_at"].items()
            if k in new["accuracy"]["pass_at"]
        },
    }


def _paired(sides: Sequence[pa.Table], name: str) -> tuple[F64, F64]:
    """Per-problem means of a column on both sides, aligned by problem, each (P,)."""
    base_P, new_P = (_sorted_means(side, name) for side in sides)
    return base_P, new_P


def _sorted_means(side: pa.Table, name: str) -> F64:
    problems = Problems.of(problem_keys(side))
    return problems.means(column(side, name))[np.argsort(problems.ids)]


def _truncation(sides: Sequence[pa.Table], cap: int) -> dict[str, Any]:
    rates, finished = [], []
    for side in sides:
        truncated_N, length_N = column(side, "truncated"), column(side, "n_response")
        rates.append(float(truncated_N.mean()))
        finished.append(float(length_N[~truncated_N].mean()) if (~truncated_N).any() else math.nan)
    share = truncation_decomposition(cap, rates[0], finished[0], rates[1], finished[1])
    return {
        "cap": cap,
        "base_mean": share.base_mean,
        "new_mean": share.new_mean,
        "change": share.change,
        "explained_by_runaways": share.explained,
    }


def _cost(base: dict[str, Any] | None, new: dict[str, Any] | None) -> dict[str, Any] | None:
    if base is None or new is None:
        return None
    return {
        "profile": new["profile"],
        "flops_ratio": new["flops_mean"] / base["flops_mean"],
        "kv_read_ratio": new["kv_read_mean"] / base["kv_read_mean"] if base["kv_read_mean"] else math.nan,
        "latency_b1_ratio": new["latency_b1_mean"] / base["latency_b1_mean"],
        "gpu_s_ratio": {batch: new["gpu_s"][batch] / value for batch, value in base["gpu_s"].items()},
        "base": base,
        "new": new,
    }


def _levels(sides: Sequence[pa.Table], blocks: Sequence[dict[str, Any]], draws: int, seed: int) -> list[dict[str, Any]]:
    rows = []
    after = {row["level"]: row for row in blocks[1]["levels"]}
    for before in blocks[0]["levels"]:
        level = before["level"]
        here = [side.filter(pc.equal(side["level"], level)) for side in sides]
        if level not in after or set(problem_keys(here[0])) != set(problem_keys(here[1])):
            continue
        delta = paired_delta(*_paired(here, "correct"), flips=1, seed=seed)
        ratio = ratio_of_sums(*_paired(here, "n_response"), draws=draws, seed=seed)
        rows.append(
            {
                "level": level,
                "n": before["n"],
                "base_accuracy": before["accuracy"],
                "new_accuracy": after[level]["accuracy"],
                "delta": delta.delta,
                "delta_ci95": delta.ci95,
                "base_tokens": before["tokens"],
                "new_tokens": after[level]["tokens"],
                "ratio": ratio.value,
                "ratio_ci95": ratio.ci95,
            }
        )
    return rows
