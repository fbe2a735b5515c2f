"""One generation, from prompts to credit, as plain functions over plain arrays.

    sample -> judge -> truncate (and judge the cut ones again) -> shape -> filter -> select -> credit

Shapes: N rollouts of the step, groups one after another; a rollout's outcome is that of its leaf. Lengths are trained
tokens. ``group_N`` holds the index of the rollout's group in ``groups``. The trainer calls these in order
(``trainer.py``) and packs the result (``rows.py``). Of several ranks each has its own groups; all of them count for the
choice among those that pass the filter, and for methods that look at a whole generation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from ..errors import RunError
from ..eval.tasks import Problem
from ..eval.tasks.prompt import prompt_thought
from ..eval.thinking import response_text
from ..rewards.filters import signal
from ..rewards.selection.base import Selected
from ..rewards.verdict import Item, Judgement, Verdict
from ..rewards.verifiers.answer_part import THINK
from ..rollout.records import Group
from .compose import advantages, next_states, select_all, shape_all
from .credit.base import Gather, TokenAdvantage, alone
from .responses import Scene

if TYPE_CHECKING:
    from .settings import RewardSettings

MOST_FAILURES = 0.5
"""Share of the answers it has looked at on which a verifier may crash or run out of time before a run stops ..."""
LEAST_SEARCHED = 8
"""... when it has looked at this many."""
Judge = Callable[[Sequence[Item]], list[Judgement]]
"""The verifier pool's ``judge``, or anything with its signature."""


@dataclass(frozen=True)
class Experience:
    """The rollouts of one generation and what is known of them."""

    groups: tuple[Group, ...]
    judgement_N: tuple[Judgement, ...]
    cut_N: NDArray[np.bool_]
    """Rollouts that Dynamic Outlier Truncation has cut."""
    reward_N: NDArray[np.float64] | None = None
    parts: tuple[NDArray[np.float64], ...] = ()
    """Length part of each shaping's reward, each (N,)."""
    selected: Selected | None = None
    """Which rollouts are trained; None before it is known."""
    advantage_N: NDArray[np.float64] | None = None
    """Of a rollout whose tokens have their own: the mean over them."""
    token_advantage: tuple[TokenAdvantage, ...] | None = None
    """By rollout: sampled segment -> advantage of each of its tokens; None where ``advantage_N`` says it all."""

    @property
    def group_N(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self.groups)), [len(group.rollouts) for group in self.groups])

    @property
    def right_N(self) -> NDArray[np.bool_]:
        return np.array([judgement.verdict.right for judgement in self.judgement_N], dtype=bool)

    @property
    def length_N(self) -> NDArray[np.int64]:
        return np.array([group.trained_tokens(r) for group in self.groups for r in group.rollouts], np.int64)

    @property
    def truncated_N(self) -> NDArray[np.bool_]:
        """Rollouts that ran into the completion cap."""
        return np.array([g.truncated(g.leaves[r.leaves[-1]]) for g in self.groups for r in g.rollouts], dtype=bool)

    def only(self, ids: Collection[int]) -> Experience:
        """Only the groups with these ids."""
        return self.select(np.array([group.id in ids for group in self.groups], dtype=bool))

    def select(self, keep_groups: NDArray[np.bool_]) -> Experience:
        """Only the groups marked."""
        keep_N = keep_groups[self.group_N]
        chosen, tokens = self.selected, self.token_advantage
        return Experience(
            tuple(group for group, keep in zip(self.groups, keep_groups, strict=True) if keep),
            tuple(judgement for judgement, keep in zip(self.judgement_N, keep_N, strict=True) if keep),
            self.cut_N[keep_N],
            None if self.reward_N is None else self.reward_N[keep_N],
            tuple(part_N[keep_N] for part_N in self.parts),
            None if chosen is None else Selected(chosen.keep_N[keep_N], chosen.counted_N[keep_N]),
            None if self.advantage_N is None else self.advantage_N[keep_N],
            None if tokens is None else tuple(one for one, keep in zip(tokens, keep_N, strict=True) if keep),
        )


def judge(
    groups: Sequence[Group], problems: Mapping[str, Problem], tokenizer: PreTrainedTokenizerBase, judge_items: Judge
) -> Experience:
    """Ask the verifier about every rollout's answer (its last leaf).

    Raises:
        RunError: it failed on most of them, so that what is learned would be noise.
    """
    items = [_item(group, rollout.leaves[-1], problems, tokenizer) for group in groups for rollout in group.rollouts]
    judgements = tuple(judge_items(items))
    searched = [judgement for judgement in judgements if judgement.verdict is not Verdict.TRUNCATED]
    failed = failed_share([judgement.verdict for judgement in searched])
    if len(searched) >= LEAST_SEARCHED and failed > MOST_FAILURES:
        raise RunError(
            f"the verifier crashed or took too long on {failed:.0%} of {len(searched)} answers, more than "
            f"{MOST_FAILURES:.0%}; mend it (task.verifier) and start the same command again"
        )
    return Experience(tuple(groups), judgements, np.zeros(len(items), dtype=bool))


def truncate(
    experience: Experience,
    method: Any,
    problems: Mapping[str, Problem],
    tokenizer: PreTrainedTokenizerBase,
    judge_items: Judge,
) -> Experience:
    """Apply a truncation method group by group; a cut rollout gets whatever the verifier says of what is left."""
    groups, cut = [], []
    for index, group in enumerate(experience.groups):
        group, cut_leaves = method.apply(group, experience.right_N[experience.group_N == index])
        groups.append(group)
        cut += [rollout.leaves[-1] in set(cut_leaves) for rollout in group.rollouts]
    cut_N = np.array(cut, dtype=bool)
    leaves = [(group, rollout.leaves[-1]) for group in groups for rollout in group.rollouts]
    again = [_item(*leaves[index], problems, tokenizer) for index in np.flatnonzero(cut_N)]
    judgements = list(experience.judgement_N)
    for rollout, judgement in zip(np.flatnonzero(cut_N), judge_items(again) if again else [], strict=True):
        judgements[rollout] = judgement
    return replace(experience, groups=tuple(groups), judgement_N=tuple(judgements), cut_N=cut_N)


def passing_groups(experience: Experience, rule: str) -> list[int]:
    """Ids of the groups that pass the filter, ascending. Filters look at outcomes only."""
    ids = np.array([group.id for group in experience.groups], np.int64)
    everything = np.ones(len(ids), dtype=bool)
    keep_P = signal(experience.right_N, experience.group_N) if rule == "signal" else everything
    return sorted(ids[keep_P].tolist())


def shape(experience: Experience, reward: RewardSettings, scene: Scene = Scene()) -> Experience:  # noqa: B008 (frozen)
    """Turn outcomes (and, with length methods, lengths) into rewards; see ``compose.py``."""
    reward_N, parts = shape_all(experience.groups, experience.right_N, experience.length_N, reward, scene)
    return replace(experience, reward_N=reward_N, parts=parts)


def select_rollouts(experience: Experience, reward: RewardSettings, scene: Scene = Scene()) -> Experience:  # noqa: B008
    """Mark the rollouts of each group that are trained."""
    assert experience.reward_N is not None
    known = (experience.groups, experience.right_N, experience.length_N, experience.reward_N)
    return replace(experience, selected=select_all(*known, reward, scene))


def credit(experience: Experience, method: Any, reward: RewardSettings, gather: Gather = alone) -> Experience:
    """Advantages, of rollouts or of tokens."""
    reward_N, selected = experience.reward_N, experience.selected
    assert reward_N is not None
    if selected is None:
        every_N = np.ones(len(reward_N), dtype=bool)
        selected = Selected(every_N, every_N)
    advantage_N, tokens = advantages(
        method, experience.groups, experience.right_N, reward_N, experience.parts, selected, reward, gather
    )
    return replace(experience, selected=selected, advantage_N=advantage_N, token_advantage=tokens)


def imitation(experience: Experience, weight: float, gather: Gather = alone) -> NDArray[np.float64] | None:
    """Weight of each rollout's tokens in a log-likelihood term of the right rollouts, (N,); None without that term.

    The term is ``weight`` times the mean over the trained tokens of all right rollouts of the update that are trained.
    """
    if not weight:
        return None
    right_N = experience.right_N & (experience.selected.keep_N if experience.selected is not None else True)
    tokens = sum(gather(int(experience.length_N[right_N].sum())))
    return np.where(right_N, weight / max(1, tokens), 0.0)


def states_after(experience: Experience, reward: RewardSettings, scene: Scene) -> dict[str, Any]:
    """States of the shapings and of the selection after a generation, given its shaped groups of this rank."""
    assert experience.reward_N is not None
    known = (experience.groups, experience.right_N, experience.length_N, experience.reward_N)
    return next_states(*known, reward, scene)


def _item(group: Group, leaf: int, problems: Mapping[str, Problem], tokenizer: PreTrainedTokenizerBase) -> Item:
    problem = problems[group.problem_id]
    response = response_text(tokenizer, group.response_ids(group.leaves[leaf]))
    if prompt_thought(group.segments[0].ids, tokenizer) == "open":
        # The chat template has opened the thought; without the mark, one that never ends would pass for an answer.
        response = THINK + response
    return Item(response, problem.gold, problem.verifier, group.truncated(group.leaves[leaf]))


def failed_share(verdicts: Iterable[str]) -> float:
    """Share of the verdicts that say that the verifier failed, rather than what it found; 0 without any."""
    flags = [verdict in (Verdict.TIMEOUT, Verdict.CRASHED) for verdict in verdicts]
    return sum(flags) / max(1, len(flags))
