"""Where Triton kernels are tested: interpreted on a CPU, or compiled on a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch


@pytest.hookimpl(tryfirst=True)  # before marks are selected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark ``triton`` what runs a Triton kernel: nothing else needs another run under the interpreter."""
    for item in items:
        if "triton_device" in getattr(item, "fixturenames", ()):
            item.add_marker("triton")


@pytest.fixture
def triton_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The device for a Triton kernel's tensors, with memory that is NaN until it is written."""
    if find_spec("triton") is None:
        if os.environ.get("LACONIC_KERNELS") == "triton":  # who asks for its kernels must not be told that all is well
            pytest.fail("LACONIC_KERNELS is 'triton', but triton is not installed; install it, or unset the variable")
        pytest.skip("triton is not installed")
    interpreted = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
    if not interpreted and not torch.cuda.is_available():
        pytest.skip("no GPU, and Triton's interpreter is off: TRITON_INTERPRET=1 pytest tests/kernels")
    monkeypatch.setenv("LACONIC_KERNELS", "triton")
    for place, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(place, name, _poisoned(getattr(place, name)))
    yield "cpu" if interpreted else "cuda"


def _poisoned(make):
    def made(*args, **kwargs):
        tensor = make(*args, **kwargs)
        return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

    return made
