"""The one measure of closeness of the kernels' tests."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_near(name: str, want: Tensor, got: Tensor, tolerance: float) -> None:
    """Norm of the difference over norm of what is wanted, in float64; ``name`` goes into the message."""
    assert got.shape == want.shape, f"{name}: shape {tuple(got.shape)} instead of {tuple(want.shape)}"
    want, got = want.detach().double().cpu(), got.detach().double().cpu()
    same = want == got  # infinities have no difference
    difference = torch.where(same, torch.zeros_like(want), got - want)
    error = float(difference.norm() / (torch.where(want.isfinite(), want, torch.zeros_like(want)).norm() + 1e-12))
    assert error < tolerance, f"{name}: relative error {error:.2e}, allowed {tolerance:.0e}"
