"""Which responses answer at once, for the shapings that reward doing without a thought."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from .base import Responses

# Shapes: N responses

MODES_NOT_LENGTHS = "the mode counts, not the length: a long answer without a thought scores above a short thought"
"""Why none of these shapings promises that a shorter right response scores no less."""


def at_once(responses: Responses) -> NDArray[np.bool_]:
    """Responses without a token before their end-of-thought mark, bool (N,).

    One without a mark has not ended its thought, so it counts as thinking.
    """
    if responses.thought_N is None:
        raise DataError("this shaping tells two modes apart, but the thoughts are not counted; pass thought_N")
    return np.asarray(responses.thought_N == 0)
