"""What the tiny thinker learns from: correct answers with far too much re-checking.

    prompt               3+4*2-1=
    response             <think>3+4=7,7*2=4,4-1=3;3+4=7,7*2=4,4-1=3;...</think>3<eos>

One pass over the steps answers the problem; every further pass is waste, and by construction there are five passes on
average with a long right tail. Three properties are put in on purpose:

- Slips. A step is wrong with probability ``slip * level``, so hard problems are missed more often and there is
  accuracy to lose (and to gain).
- The answer is what the last pass found. Re-checking repeats the work, it does not vote.
- Cut thoughts. In some examples the thought stops anywhere and the best answer so far follows. Neither the cut
  thought nor its ``</think>`` is trained on, only the answer, so the model does not learn to stop early by
  itself, yet a forced answer means something.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from ...eval.tasks.problem import Problem, ProceduralTask
from ...rewards.verifiers.answer_part import END_THINK, THINK
from .tokenizer import EOS


@dataclass(frozen=True)
class CorpusConfig:
    """How the thoughts overthink."""

    passes_median: float = 4.0
    """Median of the log-normal number of passes."""
    passes_sigma: float = 0.65
    """Its spread; mean = median * exp(sigma^2 / 2), 4.9 here before rounding."""
    passes_max: int = 14
    """Longest thought, in passes."""
    slip: float = 0.005
    """Probability that a step of a level-1 problem is wrong; it grows in proportion to the level."""
    cut_share: float = 0.10
    """Share of examples whose thought is cut at a random point and answered with the best answer so far."""


@dataclass(frozen=True, slots=True)
class Example:
    """One training text; tokens before ``trained_from`` carry no loss."""

    prompt: str
    response: str
    trained_from: int
    """Offset in the response, in tokens: a marker is one token and so is every other character."""


def write_example(task: ProceduralTask, problem: Problem, config: CorpusConfig, rng: random.Random) -> Example:
    """One example for ``problem`` under ``config``."""
    assert isinstance(problem.prompt, str) and problem.level is not None
    passes = round(rng.lognormvariate(math.log(config.passes_median), config.passes_sigma))
    passes = min(max(passes, 1), config.passes_max)
    slip = config.slip * problem.level

    def noted(result: int) -> int:
        return (result + rng.randrange(1, 10)) % 10 if rng.random() < slip else result

    thought = ";".join(",".join(task.steps(problem.prompt, noted)) for _ in range(passes))
    if rng.random() >= config.cut_share:
        return Example(problem.prompt, f"{THINK}{thought}{END_THINK}{thought[-1]}{EOS}", 0)
    thought = thought[: rng.randrange(1, len(thought) + 1)]
    return Example(problem.prompt, f"{THINK}{thought}{END_THINK}{best_so_far(task, thought)}{EOS}", len(thought) + 2)


def best_so_far(task: ProceduralTask, thought: str) -> str:
    """The answer a cut thought supports: the result of its last finished pass, else what the task can guess."""
    *finished, current = thought.split(";")
    return finished[-1][-1] if finished else task.guess(current)
