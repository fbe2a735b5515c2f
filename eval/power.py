r"""What difference in accuracy a test set can certify.

    SE    = sqrt((sd_d^2 + 2 w / k) / n)          of the paired difference of two models
    least = (z(0.975) + z(0.80)) * SE             = 2.80 SE: found with 80 % power by a two-sided test at 5 %

n problems, k samples of each by either model; sd_d is the standard deviation over problems of the true differences, w
the mean of p(1-p) over problems. Both are assumptions until two models have been measured: sd_d = 0.1, and w = 0.05
for easy sets, 0.1 for hard ones.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from ..errors import ConfigError

SPREAD = 0.1
"""Standard deviation over problems of the true difference, assumed."""
POWER, ALPHA = 0.8, 0.05


def least_difference(n: int, k: int, *, within: float = 0.1, spread: float = SPREAD) -> float:
    """The smallest true difference in accuracy that a paired comparison finds with 80 % power, as a share.

    n: problems. k: samples per problem and model. within: mean p(1-p) over problems. Raises ``ConfigError`` for fewer
    than one problem or sample.
    """
    if n < 1 or k < 1:
        raise ConfigError(f"a comparison of {n} problems with {k} samples each finds nothing; both must be at least 1")
    normal = NormalDist()
    quantiles = normal.inv_cdf(1 - ALPHA / 2) + normal.inv_cdf(POWER)
    return quantiles * math.sqrt((spread**2 + 2 * within / k) / n)
