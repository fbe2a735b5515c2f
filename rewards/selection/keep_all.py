"""`all`: every response is trained, against all others of its group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..shaping.base import F64, Responses
from .base import Selected, SelectionDefaults

# Shapes: N responses of a generation


@dataclass(frozen=True)
class KeepAll(SelectionDefaults):
    """Keeps all."""

    name: ClassVar[str] = "all"

    def __call__(self, responses: Responses, reward_N: F64, state: Mapping[str, Any]) -> Selected:
        """All of them."""
        every_N = np.ones(len(responses), dtype=bool)
        return Selected(every_N, every_N)
