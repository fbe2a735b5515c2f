"""How many branches a level of a tree gets, and which path gets how many.

With n live paths, F finished ones (``now`` of them in this level), width w and at most W answers:

    wanted = w * now + w * n                          what finished paths leave is spent on live ones
    total = max( min( max(W - F, 0), wanted ), n )
    share = even:      floor(total / n) each, the rest to the last path
            weighted:  1 each, and total - n by largest remainder of a softmax over the paths

Source: TreePO, arXiv 2508.17445, and its code.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..records import Logps

# Shapes: N live paths


def level_total(wanted: int, cap: int, finished: int, live: int) -> int:
    """Branches of the next level: what is wanted as far as the cap allows, and every live path goes on."""
    return max(min(max(cap - finished, 0), wanted), live)


def widest(first: int, most: int, answers: int, levels: int, *, fixed: bool) -> list[int]:
    """Most calls of each level: ``most`` for each one of the level before, or in all (``fixed``), up to ``answers``."""
    widths = [min(first, answers)]
    while len(widths) < levels:
        widths.append(max(min(most if fixed else most * widths[-1], answers), widths[-1]))
    return widths


def allot(policy: str, logps: Sequence[Logps], total: int, last: int, temperature: float) -> list[int]:
    """Branches of each path by a divergence policy; ``last``: tokens of the last segment."""
    if policy == "fixed_avg":
        return even_shares(total, len(logps))
    if "node" in policy:
        logps = [logp[-last:] for logp in logps]
    whole = "node" not in policy and "norm" not in policy
    sign = 1 if "inv" in policy else -1
    likely_N = np.array([logp.sum() if whole else logp.mean() for logp in logps], np.float64)
    return weighted_shares(softmax(sign * likely_N / temperature), total)


def even_shares(total: int, paths: int) -> list[int]:
    """Equal shares of ``total`` (at least ``paths``), what is left over to the last path."""
    share, rest = divmod(total, paths)
    return [share] * (paths - 1) + [share + rest]


def weighted_shares(weight_N: ArrayLike, total: int) -> list[int]:
    """One branch each, the rest in proportion to the weights, which sum to 1; equal remainders to the lower index."""
    weight = np.asarray(weight_N, np.float64)
    exact = weight * (total - len(weight))
    # rounded, so that remainders that are equal on paper tie
    whole = np.floor(np.round(exact, 9))
    left = total - len(weight) - int(whole.sum())
    first = np.argsort(-np.round(exact - whole, 9), kind="stable")[:left]
    whole[first] += 1
    return [1 + int(extra) for extra in whole]


def softmax(score_N: ArrayLike) -> NDArray[np.float64]:
    """Weights in proportion to exp(score), shape (N,)."""
    score = np.asarray(score_N, np.float64)
    weight: NDArray[np.float64] = np.exp(score - score.max())
    return weight / weight.sum()


def affordable(budget: int, spent: int, tokens_each: float, finished: int, least: int, most: int) -> int:
    """Answers that a budget in tokens allows, the finished ones included: between ``least`` and ``most``."""
    more = max(int((budget - spent) // tokens_each), 0)
    return min(max(finished + more, least), most)
