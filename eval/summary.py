"""From sampled responses to the numbers of ``summary.json``: a pure function of the rows and two price lists."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..atomic import write_whole
from .cost import linear_costs, max_concurrency
from .hardware import Hardware
from .metrics import (
    LEVEL,
    Estimate,
    Problems,
    avg_at_k,
    by_level,
    mean_by_problem,
    pass_at_k,
    token_breakdown,
    tokens_per_correct,
)
from .model_spec import ModelSpec
from .student_t import t_quantile

# Shapes: N samples

SCHEMA_VERSION = 1
OVERALL = "all"
"""Name of the block over all problems."""


def blocks(table: pa.Table, spec: ModelSpec | None, hardware: Hardware, batches: tuple[int, ...]) -> dict[str, Any]:
    """``{"overall": block, "tasks": [block, ...]}``; tasks in order of first appearance."""
    names = list(dict.fromkeys(table["benchmark"].to_pylist()))
    tasks = [block(name, table.filter(pc.equal(table["benchmark"], name)), spec, hardware, batches) for name in names]
    return {"overall": block(OVERALL, table, spec, hardware, batches), "tasks": tasks}


def block(
    task: str, table: pa.Table, spec: ModelSpec | None, hardware: Hardware, batches: tuple[int, ...]
) -> dict[str, Any]:
    """Accuracy, tokens, cost, length by level and health of one task's rows."""
    problem_N = problem_keys(table)
    length_N, right_N = column(table, "n_response"), column(table, "correct")
    truncated_N = column(table, "truncated")
    problems = Problems.of(problem_N)
    fewest, most = int(problems.count_P.min()), int(problems.count_P.max())
    tokens = token_breakdown(
        problem_N, length_N, right_N, column(table, "n_think"), truncated_N, column(table, "loop_flag")
    )
    tpc = tokens_per_correct(length_N, right_N, problem_N)
    level_N = pc.fill_null(table["level"], -1).to_numpy()
    verdicts = Counter(table["verdict"].to_pylist())
    return {
        "task": task,
        "n": len(problems.ids),
        "k": most if most == fewest else None,
        "n_samples": len(table),
        "accuracy": {
            "avg_at_k": _accuracy(avg_at_k(right_N, problem_N)),
            "pass_at": {str(k): pass_at_k(right_N, problem_N, k) for k in _powers(fewest)},
            "loose": mean_by_problem(pc.coalesce(table["correct_loose"], table["correct"]).to_numpy(), problem_N).value,
        },
        "tokens": {
            "mean": tokens.mean.value,
            "mean_se": tokens.mean.se,
            "mean_ci95": tokens.mean.ci95,
            **{name: value for name, value in asdict(tokens).items() if name != "mean"},
            "prompt_mean": mean_by_problem(column(table, "n_prompt"), problem_N).value,
            "think_closed_rate": mean_by_problem(column(table, "think_closed"), problem_N).value,
        },
        "efficiency": {"tpc": tpc.value, "tpc_se": tpc.se, "tpc_ci95": _interval(tpc.value, tpc.se, len(problems.ids))},
        "cost": None if spec is None else _cost(table, problem_N, spec, hardware, batches),
        "levels": [
            {
                "level": level.level,
                "n": level.accuracy.n,
                "accuracy": level.accuracy.value,
                "accuracy_ci95": level.accuracy.ci95,
                "tokens": level.tokens.value,
                "tokens_ci95": level.tokens.ci95,
                "trunc_rate": level.trunc_rate,
            }
            for level in by_level(level_N, problem_N, right_N, length_N, truncated_N)
        ],
        "health": {
            "verdicts": dict(sorted(verdicts.items())),
            "grader_timeouts": verdicts["timeout"],
            "grader_crashes": verdicts["crashed"],
            "box_in_think_only": pc.sum(pc.equal(table["extract_source"], "think")).as_py() or 0,
            "missing_samples": len(problems.ids) * most - len(table),
        },
    }


def problem_keys(table: pa.Table) -> NDArray[Any]:
    """A key of each row's problem, unique over tasks, shape (N,)."""
    pairs = zip(table["benchmark"].to_pylist(), table["problem_id"].to_pylist(), strict=True)
    return np.array([f"{benchmark}\x1f{problem}" for benchmark, problem in pairs])


def column(table: pa.Table, name: str) -> NDArray[Any]:
    """A number or bool column, shape (N,)."""
    return np.asarray(table[name].to_numpy())


def _accuracy(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": estimate.value,
        "se": estimate.se,
        "se_fixed": estimate.se_fixed,
        "s2_within": estimate.s2_within,
        "s2_between": estimate.s2_between,
        "ci95": estimate.ci95,
        "interval": estimate.interval,
        "degenerate": estimate.degenerate,
    }


def _cost(
    table: pa.Table, problem_N: NDArray[Any], spec: ModelSpec, hardware: Hardware, batches: tuple[int, ...]
) -> dict[str, Any]:
    prompt_N, length_N, right_N = column(table, "n_prompt"), column(table, "n_response"), column(table, "correct")
    costs = linear_costs(spec, hardware, prompt_N, length_N, batches)
    problems = Problems.of(problem_N)

    def mean(value_N: NDArray[Any]) -> float:
        return float(problems.means(value_N).mean())

    gpu_s = {str(batch): mean(costs.gpu_s(batch)) for batch in batches}
    busiest = gpu_s[str(max(batches))]
    return {
        "profile": hardware.label,
        "flops_mean": mean(costs.flops),
        "decode_steps_mean": mean(costs.decode_steps),
        "kv_read_mean": mean(costs.kv_read),
        "peak_kv_mean": mean(costs.peak_kv),
        "latency_b1_mean": mean(costs.latency),
        "gpu_s": gpu_s,
        "gpu_s_parts": {
            str(batch): {
                "prefill": mean(costs.prefill_s[batch]),
                "linear": mean(costs.linear_s[batch]),
                "kv": mean(costs.kv_s[batch]),
            }
            for batch in batches
        },
        "gpu_s_per_correct": {
            str(batch): tokens_per_correct(costs.gpu_s(batch), right_N, problem_N).value for batch in batches
        },
        "max_concurrency": max_concurrency(spec, hardware, mean(prompt_N + length_N)),
        "usd_per_1k": None if hardware.price_per_hour is None else 1000 * busiest * hardware.price_per_hour / 3600,
        "kwh_per_1k": None if hardware.tdp is None else 1000 * busiest * hardware.tdp / 3.6e6,
    }


def _interval(value: float, se: float, n: int) -> tuple[float, float] | None:
    if n < 2 or not math.isfinite(se):
        return None
    half = t_quantile(0.5 + LEVEL / 2, n - 1) * se
    return value - half, value + half


def _powers(most: int) -> list[int]:
    """1, 2, 4, ... up to ``most``, and ``most`` itself."""
    return sorted({2**power for power in range(most.bit_length())} | {most})


def plain(value: Any) -> Any:
    """Only what JSON has: numbers that are not finite become None, tuples lists, numpy scalars Python ones."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(value: Any, path: str | Path) -> None:
    """Write ``plain(value)`` to ``path``, whole or not at all."""
    text = json.dumps(plain(value), indent=1, allow_nan=False, ensure_ascii=False)
    write_whole(Path(path), lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))
