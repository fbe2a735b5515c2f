"""How a model is evaluated: the ``eval`` section."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError


@dataclass(frozen=True)
class EvalConfig:
    """Samples, sampling and price list of an evaluation. Both sides of a comparison need the same."""

    problems: int | None = None
    """Test problems; None takes all of a file, and ``task.count`` of the procedural families."""
    k: int = 4
    """Samples per problem."""
    temperature: float = 1.0
    """0 is greedy. Training samples at 1; reasoning models are usually evaluated at 0.6."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps every token."""
    max_completion: int = 640
    """Longest response in tokens; one that reaches it counts as truncated."""
    seed: int = 0
    """Of the sampling noise."""
    profile: str = "h100-sxm"
    """Machine the analytic cost is for; see ``eval/hardware.yaml``."""
    hardware_file: str | None = None
    """A YAML file with machines of your own."""
    batches: tuple[int, ...] = (1, 64)
    """Batch sizes at which GPU-seconds are given."""
    max_live: int = 256
    """Sequences decoded at a time."""
    margin: float = 0.01
    """Accuracy loss that still counts as non-inferior; 0.01 is one point."""

    def __post_init__(self) -> None:
        for name in ("problems", "k", "max_completion", "max_live"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"eval.{name} is {value} but must be at least 1; raise it")
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ConfigError(
                f"eval samples with temperature {self.temperature}, top_p {self.top_p}, top_k {self.top_k}; "
                "need temperature >= 0, 0 < top_p <= 1, top_k >= 0"
            )
        if not self.batches or min(self.batches) < 1:
            raise ConfigError(f"eval.batches is {list(self.batches)}; it needs batch sizes of at least 1")
        if not self.margin > 0:
            raise ConfigError(f"eval.margin is {self.margin} but must be positive; 0.01 is one point")
