"""How many branches a tree gets at the end of a segment, and which path gets how many of them.

    total = min(max(W - F, 0), w * (f + n)), at least n         n live paths, F finished, f of them just now
    fixed_avg   floor(total / n) each, the remainder to the last path
    weighted    one each; total - n by largest remainder of softmax(x / T) * (total - n), ties to the lower path

    x           -(lp - min lp): the less likely path gets more branches; the inverse policies take +(lp - min lp)
    lp          of the path: sum of its log-probs; ``norm``: their mean; ``node``: mean over the last segment's

Source: TreePO, arXiv 2508.17445; multimodal-art-projection/TreePO, ``vllm_rollout_spmd.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..records import Group, Logps

# Shapes: n live paths

SplitPolicy = Literal[
    "fixed_avg",
    "logprob_weighted_div",
    "inverse_logprob_weighted_div",
    "norm_logprob_weighted_div",
    "norm_inv_logprob_weighted_div",
    "node_logprob_weighted_div",
    "inverse_node_logprob_weighted_div",
]


def total_branches(wanted: int, cap: int, finished: int, live: int) -> int:
    """Branches for ``live`` paths: ``wanted`` as far as ``cap`` leaves allow, and at least one each."""
    return max(min(max(cap - finished, 0), wanted), live)


def token_cap(tokens: int, finished: Sequence[int], expected: float, least: int, most: int) -> int:
    """Leaves that a budget of ``tokens`` allows, when each one more is expected to have ``expected``.

    finished: response tokens of every finished path.
    """
    more = max(int((tokens - sum(finished)) // expected), 0)
    return min(max(len(finished) + more, least), most)


def split(group: Group, live: Sequence[int], total: int, policy: SplitPolicy, temperature: float, last: int) -> list[int]:
    """Branches for each of ``live``, the last segments of the live paths; ``last``: tokens that ``node`` looks at."""
    if policy == "fixed_avg":
        return split_evenly(total, len(live))
    logps = [path_logps(group, segment) for segment in live]
    if policy.startswith("norm"):
        score = [logp.mean() for logp in logps]
    elif "node" in policy:
        score = [logp[-last:].mean() for logp in logps]
    else:
        score = [logp.sum() for logp in logps]
    return split_by_weight(branch_weights(score, inverse="inv" in policy, temperature=temperature), total)


def path_logps(group: Group, segment: int) -> Logps:
    """Behaviour log-probs of the sampled tokens on a path, (T,)."""
    return np.concatenate([piece.logp[:kept] for piece, kept in group.path(segment)[1:]])


def branch_weights(score_n: ArrayLike, *, inverse: bool, temperature: float) -> NDArray[np.float64]:
    """Softmax of the scores, float64 (n,); without ``inverse`` the lowest score weighs most."""
    score_n = np.asarray(score_n, np.float64)
    x_n = (score_n - score_n.min()) * (1 if inverse else -1) / temperature
    weight_n: NDArray[np.float64] = np.exp(x_n - x_n.max())
    return weight_n / weight_n.sum()


def split_evenly(total: int, live: int) -> list[int]:
    """``total`` over ``live`` paths in equal parts, the remainder to the last."""
    each = total // live
    return [each] * (live - 1) + [total - each * (live - 1)]


def split_by_weight(weight_n: ArrayLike, total: int) -> list[int]:
    """One branch each, the others by largest remainder."""
    weight_n = np.asarray(weight_n, np.float64)
    # rounded, so that a tie is a tie and 0.2 * 5 is one
    share_n = np.round(weight_n * (total - len(weight_n)), 9)
    count_n = np.floor(share_n).astype(int)
    left = total - len(weight_n) - int(count_n.sum())
    count_n[np.argsort(-(share_n - count_n), kind="stable")[:left]] += 1
    return (count_n + 1).tolist()
