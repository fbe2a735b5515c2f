"""The prompts of a run as token ids, all of them before the first step: one that does not fit is found at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import DataError
from ..eval.tasks.problem import Problem
from ..eval.tasks.prompt import encode_prompt
from ..rollout.records import Ids
from .budgets import BudgetSettings


class Prompts:
    """Token ids by problem and generation: they differ where prompts ask for budgets that are drawn anew."""

    def __init__(
        self,
        problems: Sequence[Problem],
        tokenizer: Any,
        template: str | None,
        max_prompt: int,
        budget: BudgetSettings = BudgetSettings(),  # noqa: B008 (frozen)
        seed: int = 0,
    ) -> None:
        """Encode all of them. Raises what ``encode_prompts`` raises."""
        self.problems, self.tokenizer, self.template, self.max_prompt = problems, tokenizer, template, max_prompt
        self.budget, self.seed = budget, seed
        self._ids = [self._encode(problem, 0) for problem in problems]
        _check_lengths(problems, self._ids, max_prompt)
        if budget.redraw == "step":
            for longest in budget.longest_templates(template):
                encode_prompts(problems, tokenizer, longest, max_prompt)

    def at(self, index: int, step: int) -> Ids:
        """The prompt of the problem with this index for a group begun in generation ``step``, int32 (T,)."""
        if self.budget.redraw == "never":
            return self._ids[index]
        ids = self._encode(self.problems[index], step)
        _check_lengths([self.problems[index]], [ids], self.max_prompt)
        return ids

    def _encode(self, problem: Problem, step: int) -> Ids:
        return encode_prompt(problem, self.tokenizer, self.budget.template(self.template, self.seed, problem.id, step))


def encode_prompts(problems: Sequence[Problem], tokenizer: Any, template: str | None, max_prompt: int) -> list[Ids]:
    """Token ids of every problem's prompt, each int32 (T,).

    Raises:
        DataError: a prompt of more than ``max_prompt`` tokens, or one that cannot be encoded.
    """
    prompts = [encode_prompt(problem, tokenizer, template) for problem in problems]
    _check_lengths(problems, prompts, max_prompt)
    return prompts


def _check_lengths(problems: Sequence[Problem], prompts: Sequence[Ids], max_prompt: int) -> None:
    long = [index for index, ids in enumerate(prompts) if len(ids) > max_prompt]
    if long:
        worst = max(long, key=lambda index: len(prompts[index]))
        name, length = problems[worst].id, len(prompts[worst])
        raise DataError(
            f"{len(long)} of {len(prompts)} prompts are longer than rollout.max_prompt = {max_prompt}, and the longest "
            f"(problem {name!r}) has {length} tokens; set rollout.max_prompt={length}, or take these problems out of "
            "the data"
        )
