"""What an evaluation will do, decided before its first token: prompts, settings, and the key its results go by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, DataError
from ..rewards.verifiers.answer_part import END_THINK
from ..rollout.drivers.flat import FlatDriver
from ..rollout.engines.protocol import Engine
from ..rollout.records import Ids
from .identity import eval_key, model_spec, problems_hash, versions, weights_hash
from .metrics import LoopRule
from .model_spec import ModelSpec
from .tasks.problem import Problem
from .tasks.prompt import Thought, encode_prompt, prompt_thought
from .thinking import end_think_ids

AUTO = "auto"


@dataclass(frozen=True)
class Plan:
    """Everything decided before the first token."""

    tokenizer: Any
    problems: Sequence[Problem]
    prompts: list[Ids]
    thoughts: list[Thought]
    """What each prompt ends in."""
    driver: FlatDriver
    seed: int
    end_ids: tuple[int, ...] | None
    loop: LoopRule
    weights: str | None
    spec: ModelSpec | None
    settings: dict[str, Any]
    key: str
    """Equal keys mean equal samples; the number of samples is not part of it."""
    rank: dict[tuple[str, str], int]
    """(source, id) of a problem -> its index."""
    revisions: dict[str, str]
    """Source -> hash of its problems."""

    @property
    def k(self) -> int:
        """Samples per problem."""
        return self.driver.group_size


def make_plan(
    model: Any,
    tokenizer: Any,
    problems: Sequence[Problem],
    engine: Engine,
    driver: FlatDriver,
    seed: int,
    template: str | None,
    end_think: str | None,
    loop: LoopRule,
) -> Plan:
    """Encode the prompts and name the evaluation. Raises as ``laconic.eval.run.evaluate`` does."""
    if not problems:
        raise ConfigError("there are no problems to evaluate; raise the number of problems to at least 1")
    rank = {(problem.source, problem.id): index for index, problem in enumerate(problems)}
    if len(rank) != len(problems):
        raise DataError(f"{len(problems) - len(rank)} problems repeat the id of another; ids must be unique in a task")
    prompts = [encode_prompt(problem, tokenizer, template) for problem in problems]
    limit = getattr(engine, "max_context", None)
    longest = max(range(len(prompts)), key=lambda index: len(prompts[index]))
    if limit is not None and len(prompts[longest]) + driver.max_completion > limit:
        raise DataError(
            f"problem {problems[longest].id!r} has a prompt of {len(prompts[longest])} tokens; with max_completion "
            f"{driver.max_completion} it exceeds the context of {limit} tokens; lower max_completion or drop "
            "the problem"
        )
    thoughts = [prompt_thought(ids, tokenizer) for ids in prompts]
    if end_think == AUTO:
        known = END_THINK in tokenizer.get_vocab() or "open" in thoughts
        end_think = END_THINK if known else None
    sources = list(dict.fromkeys(problem.source for problem in problems))
    settings = {
        "tasks": sources,
        "n_problems": len(problems),
        "k": driver.group_size,
        "temperature": driver.sampling.temperature,
        "top_p": driver.sampling.top_p,
        "top_k": driver.sampling.top_k,
        "max_completion": driver.max_completion,
        "seed": seed,
        "template": template,
        "verifiers": sorted({problem.verifier for problem in problems}),
        "problems_hash": problems_hash(problems),
        "engine": type(engine).__name__,
        "end_think": end_think,
    }
    weights = weights_hash(model)
    named = {name: value for name, value in settings.items() if name != "k"}
    return Plan(
        tokenizer=tokenizer,
        problems=problems,
        prompts=prompts,
        thoughts=thoughts,
        driver=driver,
        seed=seed,
        end_ids=None if end_think is None else end_think_ids(tokenizer, end_think),
        loop=loop,
        weights=weights,
        spec=model_spec(model),
        settings=settings,
        key=eval_key(weights or str(model), prompts, named | {"laconic": versions()["laconic"], "loop": repr(loop)}),
        rank=rank,
        revisions={name: problems_hash(p for p in problems if p.source == name)[:12] for name in sources},
    )
