"""What all tests share: threads, no network, where the benchmark data are, and which tests need a GPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside the tests, under --import-mode=importlib

# Set before torch is imported, which reads it once: torch's own choice differs from machine to machine, and with it the
# order of sums. A value given from outside stays. Processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"
# What DeepSpeed builds in C++ belongs to the clone: a build that was killed elsewhere would stop this one by its lock.
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(ROOT / "build" / "torch_extensions"))

LONGEST_FIRST = (
    "vllm",
    "test_method_configs.py",
    "test_kill_resume.py",
    "test_two_ranks.py",
    "test_gsm8k_end_to_end.py",
    "test_interrupt.py",
    "test_collapse.py",
)
"""Groups of tests that take a minute and more: begun last, one of them would keep a worker busy alone."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers a file stays on one, for its fixtures, and so does vLLM, for memory."""
    if "PYTEST_XDIST_WORKER" not in os.environ:  # only workers collect
        return

    def group(item: pytest.Item) -> str:
        return "vllm" if item.get_closest_marker("vllm") else item.path.name

    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    rank = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(group(item), len(rank)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked ``gpu`` where there is none."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU, and this machine has none")


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The root of the repository, which is the package's folder."""
    return ROOT


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with real benchmark problems (``gsm8k_test.jsonl`` and others): LACONIC_DATA, else beside the clone."""
    folder = Path(os.environ.get("LACONIC_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "gsm8k_test.jsonl").exists():
        pytest.skip(f"no gsm8k_test.jsonl in {folder}; set LACONIC_DATA to the folder with the benchmark data")
    return folder


@pytest.fixture(scope="session")
def soak_kills() -> int:
    """How often a soak test kills its run: three, or LACONIC_SOAK_KILLS (`make soak`)."""
    return int(os.environ.get("LACONIC_SOAK_KILLS", "3"))
