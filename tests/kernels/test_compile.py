"""Triton kernels compile for an H200 without one: the interpreter accepts what the compiler refuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "compile_kernels.py"
SOME = (
    "loss", "fold-backward", "merge-backward", "partial-high",
    "forward-128", "dq-128", "dkdv-128", "delta-128", "add-parts-128",
)  # fmt: skip
"""The larger of each kind, attention at the head size of most models: the rest takes minutes (`make soak`)."""
ALL = 23


@pytest.mark.soak
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_kernels_compile_for_compute_capability_9(tmp_path):
    """In a process of its own, because Triton decides at import whether it interprets."""
    every = os.environ.get("LACONIC_SOAK_KERNELS") == "all"
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    command = [sys.executable, str(SCRIPT), *(() if every else SOME)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    shared = {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines()}
    assert len(shared) == ALL if every else tuple(shared) == SOME, done.stdout
    assert max(shared.values()) <= 227 * 1024, shared


def test_every_kernel_is_on_the_list_of_what_is_compiled(repo_root):
    listed, written = SCRIPT.read_text(), []
    for path in sorted((repo_root / "kernels").rglob("triton_*.py")):
        names = re.findall(r"^def (\w*_kernel)\(", path.read_text(), re.MULTILINE)
        written += [f"{path.stem}.{name}" for name in names]
    assert len(written) == 12 and [name for name in written if name not in listed] == []
