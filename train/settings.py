"""Every setting of a training run: one dataclass per section of the YAML file, each field documented where it stands.

A file holds only what differs from the defaults below. The sections ``adapter``, ``sampler``, ``truncation``,
``reward.shaping``, ``credit`` and ``objective`` are chosen by ``name``; their options belong to the method's own file
(``laconic methods show <id>`` prints them). ``settings_io.py`` reads and writes, ``checks.py`` refuses what cannot
work, ``derived.py`` says what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from ..errors import ConfigError
from ..eval.settings import EvalConfig
from ..eval.tasks.settings import TaskSettings
from ..rewards.selection import SELECTIONS
from ..rewards.shaping import SHAPINGS
from ..rollout.drivers import DRIVERS
from ..rollout.engines.protocol import Sampling
from .adapter import ADAPTERS
from .budgets import BudgetSettings
from .credit import CREDITS
from .objectives import OBJECTIVES
from .samplers import SAMPLERS
from .settings_io import Tree, apply_override, build, choice, choices, dump, name_of, read_yaml
from .truncation import TRUNCATIONS

PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class RolloutSettings:
    """How many answers are sampled, from what, and how long they may be."""

    engine: str = "transformers"
    """What decodes: ``transformers`` in the trainer's process, with its weights; ``vllm`` there with a copy;
    ``vllm_server`` in a process of its own; or ``module:Class``."""
    driver: Any = choice(DRIVERS, "flat")
    """The shape of a group: ``flat`` samples ``group_size`` independent answers."""
    prompts_per_step: int = 8
    """Prompts whose groups make one generation (more are sampled when the sampler oversamples)."""
    group_size: int = 16
    """Answers per prompt, G in the papers."""
    max_prompt: int = 128
    """Longest prompt in tokens; a longer one is an error, never cut."""
    max_completion: int = 640
    """Longest answer in tokens; an answer that reaches it counts as truncated."""
    temperature: float = 1.0
    """Of the sampling distribution, and of the log-probs in the loss."""
    max_live: int = 256
    """Sequences decoded at the same time; bounds the key-value cache."""
    kv_gb: float | None = None
    """GiB that the key-value cache may take, kept prefixes of trees included: fewer sequences are live, and less is
    kept, if it demands so. None: ``max_live`` of the longest, and for trees as much again."""
    server: str = "127.0.0.1:8000"
    """Where ``laconic serve`` runs, for the engine ``vllm_server``."""
    server_timeout: float = 60.0
    """Seconds that server may be unreachable before a run stops with the reason."""
    park_after: int = 0
    """Tokens that one call decodes per generation; a longer one is parked, and goes on in the next with the new
    weights. 0 lets every call end."""
    mismatch_alarm: float | None = None
    """Mean difference of engine's and trainer's log-probs, in nats per token, above which a run warns; none: 0.001, and
    0.05 where one computes in 16 bits."""
    mismatch_stop: float | None = None
    """The same above which it stops; none: 0.05, and 0.3."""
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    """Token budgets that prompts ask for."""

    def __post_init__(self) -> None:
        """Give the driver what it shares with this section."""
        own = vars(self) | {"sampling": Sampling(self.temperature)}
        taken = {f.name: own[f.name] for f in fields(self.driver) if f.metadata.get("shared") and f.name in own}
        object.__setattr__(self, "driver", replace(self.driver, **taken))

    @property
    def longest_context(self) -> int:
        """Most tokens that one sequence of the engine, and one row of the training, can have."""
        longest: int = getattr(self.driver, "longest_context", self.max_completion)
        return self.max_prompt + longest


@dataclass(frozen=True)
class RewardSettings:
    """From outcome to reward."""

    shaping: Any = choice(SHAPINGS, "none")
    """How length enters the reward; ``none`` rewards the outcome alone."""
    more: Any = choices(SHAPINGS)
    """Further shapings whose length parts are added: a list of sections, each with a ``name``."""
    weights: tuple[float, ...] = ()
    """Factors of the length parts of ``shaping`` and of each of ``more``; empty: all 1."""
    level: Literal["reward", "advantage"] = "reward"
    """Whether length parts are added to the outcome before credit, or each gets credit of its own, so that its weight
    is kept beside the outcome's."""
    dead_zone: float = 0
    """Tokens by which a right answer may be longer than the shortest right one of its group and count as long as it."""
    std_floor: float = 0.0
    """Least standard deviation of a group's rewards that credit divides by."""
    selection: Any = choice(SELECTIONS, "all")
    """Which answers of a group are trained."""

    def __post_init__(self) -> None:
        if self.more and getattr(self.shaping, "name", "") == "none":
            raise ConfigError("reward.more adds to reward.shaping, which is none; put the first of them there")
        if any(getattr(one, "name", "") == "none" for one in self.more):
            raise ConfigError("reward.more holds none, which adds nothing; leave it out")
        terms = 1 + len(self.more)
        if self.weights and len(self.weights) != terms:
            raise ConfigError(
                f"reward.weights has {len(self.weights)} numbers, but there are {terms} terms: reward.shaping and "
                f"{len(self.more)} in reward.more; give one for each"
            )
        for key, value in (("dead_zone", self.dead_zone), ("std_floor", self.std_floor)):
            if not value >= 0:
                raise ConfigError(f"reward.{key} is {value:g} but must be 0 (off) or above; raise it")
        if not all(weight > 0 for weight in self.weights):
            raise ConfigError(
                f"reward.weights are {list(self.weights)} but must be above 0; leave out a term that is not to count"
            )

    @property
    def terms(self) -> tuple[tuple[Any, float], ...]:
        """Every shaping with its weight."""
        weights = self.weights or (1.0,) * (1 + len(self.more))
        return tuple(zip((self.shaping, *self.more), weights, strict=True))


@dataclass(frozen=True)
class OptimSettings:
    """The optimizer (AdamW) and how a generation is cut into updates."""

    lr: float = 1e-6
    """Peak learning rate."""
    updates_per_batch: int = 1
    """Optimizer updates that share one generation, each on a part of its groups."""
    epochs: int = 1
    """How often the generation is gone through."""
    micro_batch_tokens: int = 16_384
    """Tokens of one forward and backward pass; bounds the activations."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a fifth more time."""
    warmup_steps: int = 0
    """Generations over which the learning rate rises to its peak."""
    schedule: Literal["constant", "linear", "cosine", "constant_with_warmup"] = "constant"
    """Course of the learning rate after the warm-up."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""


@dataclass(frozen=True)
class SaveSettings:
    """What a run leaves behind, and how often."""

    every: int = 20
    """Generations between two checkpoints."""
    keep: int = 2
    """Checkpoints kept; older ones are deleted."""
    rollouts_every: int = 10
    """Generations between two samples of rollouts written to ``rollouts/``; 0 writes none."""


@dataclass(frozen=True)
class Settings:
    """A training run."""

    model: str
    """``tiny-thinker`` (ships with the package), a folder, or a Hub id."""
    name: str = "run"
    """The run's folder is ``runs/<name>``; by default the configuration file's name."""
    task: TaskSettings = field(default_factory=TaskSettings)
    """The problems."""
    steps: int = 100
    """Generations: each samples ``rollout.prompts_per_step`` groups and updates the policy on them."""
    tokens: int = 0
    """Decoded tokens after which training ends before ``steps``, with the generation that spends them; 0: no bound."""
    seed: int = 1
    """Of everything random: sampled tokens, order of prompts."""
    threads: int = 0
    """CPU threads of torch, shared by the ranks of a machine; 0 leaves torch's own choice."""
    adapter: Any = choice(ADAPTERS, "none")
    """All weights are trained, or small matrices beside frozen ones."""
    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    """Sampling."""
    sampler: Any = choice(SAMPLERS, "uniform")
    """Which prompts, and how many of them."""
    truncation: Any = choice(TRUNCATIONS, "none")
    """Whether tails of long right answers are cut before training."""
    reward: RewardSettings = field(default_factory=RewardSettings)
    """From outcome to reward."""
    credit: Any = choice(CREDITS, "grpo")
    """From rewards to one advantage per rollout."""
    objective: Any = choice(OBJECTIVES, "clip")
    """The loss."""
    optim: OptimSettings = field(default_factory=OptimSettings)
    """The optimizer."""
    save: SaveSettings = field(default_factory=SaveSettings)
    """Checkpoints and logs."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """How ``laconic eval runs/<name>`` measures the trained model."""
    trl: dict[str, Any] = field(default_factory=dict)
    """Further keys of trl's GRPOConfig; one that has no effect here is refused with the reason."""

    def __post_init__(self) -> None:
        """Give credit the least deviation to divide by, where it divides by one."""
        if any(f.name == "std_floor" for f in fields(self.credit)):
            object.__setattr__(self, "credit", replace(self.credit, std_floor=self.reward.std_floor))


def load_settings(config: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """The settings in a YAML file, changed by ``dotted.key=value`` overrides.

    A path that does not exist here is also looked for among the files that ship with the package, so that
    ``configs/quickstart.yaml`` works from any folder.

    Raises:
        ConfigError: missing file, unknown key (the nearest one is named), wrong type, malformed override.
    """
    path = Path(config)
    if not path.is_file() and not path.is_absolute() and (PACKAGE / path).is_file():
        path = PACKAGE / path
    tree = read_yaml(path)
    tree.setdefault("name", path.stem)
    for override in overrides:
        apply_override(tree, override)
    return build(Settings, tree)


def as_dict(settings: Settings) -> Tree:
    """The resolved settings as plain data, every field spelled out: what ``config.yaml`` of a run holds."""
    return dump(settings)


def to_yaml(settings: Settings) -> str:
    """The text of a run's ``config.yaml``; ``load_settings`` reads it back equal."""
    return yaml.safe_dump(as_dict(settings), sort_keys=False, allow_unicode=True)


def chosen(settings: Settings, section: str) -> str:
    """The name by which the method in a section (``shaping`` for ``reward.shaping``) was chosen."""
    owner = settings.reward if section == "shaping" else settings
    table = type(owner).__dataclass_fields__[section].metadata["table"]
    return name_of(getattr(owner, section), table)
