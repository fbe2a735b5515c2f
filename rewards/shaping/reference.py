"""Pre-samples of a reference policy: mean length and accuracy of its answers to each problem.

They are read from the samples of ``laconic eval`` (a run's folder, or its ``samples.parquet``): for problem q

    Lref(q) = mean of n_response        Aref(q) = mean of correct        over all samples of q

``n_response`` counts the end-of-sequence token, as lengths in shaping do. Only one file of any policy is needed, so the
reference need not be in memory while training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ...errors import DataError
from .base import F64, Responses

# Shapes: N responses

Table = dict[str, list[float]]
"""Problem -> [mean length, share of right answers]; plain numbers, for JSON."""
COLUMNS = ("problem_id", "n_response", "correct")
SAMPLES = "samples.parquet"


def read_reference(path: str) -> Table:
    """The table in a file of samples. Raises ``DataError`` where it is missing or none of ours."""
    # Imported here: most runs have no reference.
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = Path(path) / SAMPLES if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise DataError(f"no samples of a reference at {file}; evaluate the start policy first: laconic eval")
    try:
        table = pq.read_table(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}; evaluate the start policy again") from error
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise DataError(f"{file} has no column {missing[0]!r}; pass samples.parquet of laconic eval")
    return measured(*(table[name].to_pylist() for name in COLUMNS))


def measured(problem_N: Iterable[str], length_N: Iterable[float], right_N: Iterable[bool]) -> Table:
    """The table of these responses."""
    sums: dict[str, list[float]] = {}
    for problem, length, right in zip(problem_N, length_N, right_N, strict=True):
        total = sums.setdefault(problem, [0.0, 0.0, 0.0])
        for index, value in enumerate((float(length), float(right), 1.0)):
            total[index] += value
    return {problem: [length / count, right / count] for problem, (length, right, count) in sums.items()}


def measured_on(responses: Responses) -> Table:
    """The table of what a generation has sampled."""
    assert responses.problem_N is not None
    return measured(responses.problem_N, responses.length_N.tolist(), responses.right_N.tolist())


def look_up(table: Mapping[str, Sequence[float]], problem_N: Sequence[str]) -> tuple[F64, F64]:
    """Mean length and accuracy for each response's problem, float64 (N,) each."""
    unknown = [problem for problem in problem_N if problem not in table]
    if unknown:
        known = next(iter(table), None)
        example = "" if known is None else f" (it has {known!r})"
        raise DataError(
            f"the reference has no samples of problem {unknown[0]!r}{example}; evaluate the start policy on the "
            "problems that are trained on, or leave the reference out"
        )
    pairs_N2 = np.array([table[problem] for problem in problem_N], dtype=np.float64).reshape(-1, 2)
    return pairs_N2[:, 0], pairs_N2[:, 1]
