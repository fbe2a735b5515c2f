"""What an engine is: token ids in; token ids, log-probs, stop reason and cost counters out.

Engines know no text, no problems and no rewards. Drivers never see an engine; the scheduler stands between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from ..records import Cost, Ids, Logps, Stop


@dataclass(frozen=True, slots=True)
class Sampling:
    """The distribution tokens are drawn from. ``temperature == 0`` is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps every token."""


@dataclass(frozen=True, slots=True)
class NoiseKey:
    """Names the random numbers of one sequence: a draw depends on (seed, step, group, leaf, position) alone.

    Not on batch composition, order of arrival or number of ranks.
    """

    seed: int
    step: int
    group: int
    leaf: int


@dataclass(frozen=True, slots=True)
class Request:
    """One call: continue ``context`` by at most ``max_tokens`` tokens."""

    id: int
    """Chosen by the caller, unique among live requests."""
    context: Ids
    """Prompt and everything before, shape (T,); requests with equal contexts are prefilled once."""
    max_tokens: int
    sampling: Sampling
    noise: NoiseKey
    position: int = 0
    """Noise position of the first token: the number of response tokens already in ``context``."""
    stop_ids: tuple[int, ...] = ()
    """Tokens that end the call (kept in the completion), besides the engine's EOS ids."""
    tree: int | None = None
    """Requests of one tree may continue each other; an engine may keep what a finished one computed for the others."""
    keep: int | None = None
    """How many tokens, from the first of ``context`` on, others of the tree may begin with; None: all."""


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to one request."""

    request: int
    ids: Ids
    """Sampled tokens, the ending EOS or stop token included, shape (T,)."""
    logp: Logps
    """Log-probs under the sampling distribution (after temperature, top-k and top-p), shape (T,)."""
    stop: Stop
    """``EOS``, ``STOP_TOKEN``, ``LENGTH`` or ``ABORTED``."""
    policy_version: int
    cost: Cost


class Engine(Protocol):
    """A decoder with continuous batching."""

    policy_version: int
    """Raised by every ``sync``; no cached state of an older version is ever read."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests. Raises ``ValueError`` for a context plus ``max_tokens`` beyond the model's positions."""

    def step(self) -> list[Completion]:
        """Decode one token of every live sequence (admitting queued ones first); return what finished."""

    def abort(self, requests: Sequence[int]) -> list[Completion]:
        """End requests now; queued ones return with no tokens."""

    def sync(self, weights: Mapping[str, Tensor] | None, version: int) -> None:
        """Take new weights (None: they are shared with the trainer and already in place) and drop every cache."""

    @property
    def busy(self) -> bool:
        """Whether a request is queued or live."""


@runtime_checkable
class KeepsPrefixes(Protocol):
    """An engine that keeps what a tree computed until it is told that nothing will continue it."""

    def release(self, trees: Sequence[int]) -> None:
        """Forget what is kept of these trees; unknown ones are ignored."""
