"""`context_curriculum`: a longest answer and a group size for each stage of the training.

    generation t uses the last stage with step <= t: its max_completion, and its group_size

DeepScaleR trains with answers of at most 8K tokens, then 16K, then 24K. The first stage shortens: an answer that runs
into the cap has no final answer and is wrong. Then what was freed is given back where it is needed. Falling caps are
ThinkPrune's schedule (4000, 3000, 2000). ``rollout.max_completion`` and ``rollout.group_size`` are upper bounds: the
dry run counts with them.

A cap far below the usual length makes every group wrong, and nothing is learned: begin near the median length. Masking
truncated answers takes away what a low cap teaches.

Source: DeepScaleR, agentica-project/rllm scripts/deepscaler/train: switches at steps 1040 and 1520, groups of 8, 16 and
16. Falling caps: ThinkPrune, arXiv 2504.01296.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ...errors import ConfigError
from .base import Filter, SamplerDefaults


@dataclass(frozen=True)
class Stage:
    """Answers from generation ``step`` on."""

    step: int
    """First generation of the stage, from 0."""
    max_completion: int
    """Longest answer in tokens."""
    group_size: int
    """Answers per prompt."""


@dataclass(frozen=True)
class ContextCurriculum:
    """Stages of the longest answer."""

    stages: tuple[Stage, ...] = (Stage(0, 8192, 8), Stage(1040, 16384, 16), Stage(1520, 24576, 16))
    """Stages with rising ``step``; the first begins at 0."""
    filter: Filter = "none"
    """``signal`` leaves out groups whose answers are all right or all wrong."""

    name: ClassVar[str] = "context_curriculum"

    def __post_init__(self) -> None:
        steps = [stage.step for stage in self.stages]
        if not steps or steps[0] != 0 or sorted(set(steps)) != steps:
            raise ConfigError(f"sampler.stages begin at {steps} but must begin at 0 and rise; sort them by step")
        for stage in self.stages:
            if stage.max_completion < 1 or stage.group_size < 2:
                raise ConfigError(
                    f"the stage of step {stage.step} has max_completion {stage.max_completion} and group_size "
                    f"{stage.group_size}, but needs at least 1 and 2: one answer alone has nothing to be compared with"
                )

    def check(self, settings: Any) -> None:
        """Raise ``ConfigError`` for a stage that goes beyond the rollout section, or that the driver refuses."""
        rollout = settings.rollout
        for stage in self.stages:
            for key in ("max_completion", "group_size"):
                if getattr(stage, key) > getattr(rollout, key):
                    raise ConfigError(
                        f"the stage of step {stage.step} has {key} {getattr(stage, key)}, more than rollout.{key} = "
                        f"{getattr(rollout, key)}, by which memory and cost are counted; raise rollout.{key}"
                    )
            try:
                replace(rollout.driver, max_completion=stage.max_completion, group_size=stage.group_size)
            except ConfigError as error:
                raise ConfigError(f"the stage of step {stage.step} does not suit the driver: {error}") from error
        if rollout.park_after:
            raise ConfigError(
                f"sampler context_curriculum changes the longest answer, which a parked group does not keep, but "
                f"rollout.park_after is {rollout.park_after}; leave it out"
            )

    def describe(self, batch: int, group_size: int) -> list[str]:
        """What a dry run should say."""
        stages = [f"from step {one.step} {one.group_size} x {one.max_completion:,} tokens" for one in self.stages]
        return [f"sampler context_curriculum: {', '.join(stages)}"]

    def build(self, problems: int, seed: int) -> ContextCurriculumSampler:
        """A sampler over ``problems`` problems, at its start."""
        return ContextCurriculumSampler(self, problems, seed)


class ContextCurriculumSampler(SamplerDefaults):
    """See ``ContextCurriculum``."""

    def __init__(self, settings: ContextCurriculum, problems: int, seed: int) -> None:
        super().__init__(problems, seed)
        self.settings = settings
        self._stage = settings.stages[0]

    def begin(self, generation: int) -> None:
        self._stage = [stage for stage in self.settings.stages if stage.step <= generation][-1]

    def sizes(self, indices: Sequence[int], group_size: int) -> list[int]:
        return [self._stage.group_size] * len(indices)

    def longest(self, max_completion: int) -> int:
        return self._stage.max_completion

    def metrics(self) -> dict[str, float]:
        return {"sampler/max_completion": self._stage.max_completion, "sampler/group_size": self._stage.group_size}
