"""What a claim is, and how one is measured and written down: ``benchmarks/results/<name>.json``.

A claim records the sha256 of the content of its source files, and is stale when one of them reads differently now.
History is not asked, because it answers another question: a commit that touches a file and a later one that takes it
back leave it as it was measured, a shallow clone or a downloaded archive has no history, a squashed or rebased branch
has lost the commit of the measurement, and a change that is not committed yet has none. The commit is kept for people.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, get_args

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

EMBEDDED_ENGINE = tuple(
    f"rollout/engines/{name}.py"
    for name in ("transformers", "plain_step", "prefill", "prefixes", "limits", "slots", "rows", "sampling")
)
"""Sources of whatever the embedded engine's speed is part of."""
TRAINING_STEP = (
    *(f"train/{name}.py" for name in ("trainer", "rounds", "experience", "updates", "rows", "packed", "forward")),
    "train/packing/*.py",
    "train/objectives/policy.py",
    "kernels/dispatch.py",
    "kernels/logprob_head.py",
    "kernels/fused_logprob/*.py",
    "kernels/tree_layout.py",
    "kernels/tree_attn/__init__.py",
    "kernels/tree_attn/sdpa.py",
)
"""Sources of whatever is trained."""

Kind = Literal["floor", "ceiling", "finding"]


class Claim(TypedDict):
    """One figure. A floor must be reached, a ceiling kept; a finding has no bar."""

    id: str
    kind: Kind
    value: float
    spread: Sequence[float] | float | None
    """Lowest and highest sample, or the ends of an interval."""
    peer: str | None
    """What it was compared with, version included; None for a figure that stands alone."""
    equal: bool | None
    """Did both sides give the same results? Never None beside a peer of a floor or ceiling."""
    sources: Sequence[str]
    """Files, or patterns such as ``train/**/*.py``, relative to the root, whose change makes the claim stale."""
    samples: NotRequired[Sequence[float]]
    """What ``value`` is the median of; the check takes the median again."""


def interleaved(sides: Mapping[str, Callable[[], float]], pairs: int = 5) -> dict[str, list[float]]:
    """Measure all sides in turns, ``pairs`` times: what disturbs the machine then disturbs every side.

    Each side returns its own figure (seconds, or a rate) and is already warm. The order turns round in every other
    pair, so that no side always runs on what the other left in the caches. Returns ``pairs`` figures for each side.
    """
    if pairs < 1:
        raise ValueError(f"pairs is {pairs}, but a comparison needs at least 1; give pairs=5")
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for pair in range(pairs):
        names = list(sides) if pair % 2 == 0 else list(reversed(sides))
        for name in names:
            figures[name].append(float(sides[name]()))
    return figures


def median_and_spread(samples: Sequence[float]) -> tuple[float, list[float]]:
    """Median, and lowest and highest: what a claim gives as ``value`` and ``spread``."""
    return statistics.median(samples), [min(samples), max(samples)]


def machine() -> dict[str, Any]:
    """What the figures were measured on. Versions are read from the packages' metadata, nothing is imported."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpu": _gpu_model(),
        "python": platform.python_version(),
        **{package: _version(package) for package in ("torch", "transformers", "trl")},
    }


def write_claims(
    name: str, command: str, claims: Sequence[Claim], details: Mapping[str, Any], folder: Path = RESULTS
) -> Path:
    """Write ``folder/<name>.json``, whole or not at all, and return its path.

    ``command`` is what to type to measure again, ``details`` whatever explains the figures (JSON). Raises ValueError
    for a claim without a finite value, a comparison that does not say whether its sides agreed, or a source that
    matches no file.
    """
    for claim in claims:
        _refuse_unusable(claim)
    record = {
        "name": name,
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": machine(),
        "claims": [
            {**claim, "sources": {pattern: source_hash(pattern) for pattern in claim["sources"]}} for claim in claims
        ],
        "details": details,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    unfinished = path.with_suffix(".json.part")
    unfinished.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
    unfinished.replace(path)
    return path


def source_hash(pattern: str, root: Path = ROOT) -> str | None:
    """sha256 over names and contents of the files that match, so a file that is added or removed counts as a change.

    None if no file matches.
    """
    files = sorted(path for path in root.glob(pattern) if path.is_file())
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def changed_sources(claim: Mapping[str, Any], root: Path = ROOT) -> list[str]:
    """Sources of a written claim that read differently from when it was measured."""
    return [pattern for pattern, digest in claim["sources"].items() if source_hash(pattern, root) != digest]


def _refuse_unusable(claim: Claim) -> None:
    if claim["kind"] not in get_args(Kind):
        raise ValueError(f"{claim['id']}: kind is {claim['kind']!r}; give one of {', '.join(get_args(Kind))}")
    if not math.isfinite(claim["value"]):
        raise ValueError(f"{claim['id']}: value is {claim['value']}; a claim needs a finite number")
    if claim["kind"] != "finding" and claim["peer"] is not None and claim["equal"] is None:
        raise ValueError(
            f"{claim['id']}: compared with {claim['peer']}, so `equal` must say whether the results agreed"
        )
    missing = [pattern for pattern in claim["sources"] if source_hash(pattern) is None]
    if missing or not claim["sources"]:
        raise ValueError(
            f"{claim['id']}: no file matches {missing or 'an empty list of sources'}; paths start at {ROOT}"
        )


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu_model() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    answer = subprocess.run(
        ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip().replace("\n", ", ") or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit the files were at, with ``+changes`` if some were changed since; None outside a git checkout."""
    if shutil.which("git") is None:
        return None
    head = _git("rev-parse", "HEAD")
    return head and head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str | None:
    answer = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None
